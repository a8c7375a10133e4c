"""The command line: `dedup serve | generate | filter | score | watch | audit | export-pairs`."""

import asyncio
import codecs
import json
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import msgspec
from tqdm import tqdm

from dedup.config import POLICIES, FilterConfig
from dedup.pairs import preference_pair
from dedup.scores import score as score_of
from dedup.scores import table
from dedup.terminal import one_line
from dedup.text.filter import RepetitionFilter
from dedup.text.metrics import repetition_metrics
from dedup.text.segmenter import load_punkt

READ_BYTES = 64 * 1024
DTYPES = ["auto", "float32", "bfloat16", "float16"]
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # how surrogateescape marks a byte that is not UTF-8

Row = dict[str, Any]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dedup-llm", prog_name="dedup")
def main() -> None:
    """Stops language models from repeating themselves.

    `dedup serve` puts an OpenAI-compatible server in front of a model; `dedup generate` asks one about a text of any length;
    `dedup filter` cleans texts; `dedup score` measures them; `dedup watch` shows what a server is doing; `dedup audit` says whether a
    model repeats itself more than another.
    """


@main.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on.  [default: 8000]")
@click.option("--model", metavar="PATH_OR_HUB_ID", help="A Hugging Face model to serve.  [default: the bundled demo model]")
@click.option(
    "--upstream", metavar="URL", help="An OpenAI-compatible server to stand in front of, e.g. http://127.0.0.1:8001/v1."
)
@click.option("--device", metavar="DEVICE", help="Where the model runs: cpu, cuda, mps.  [default: the best there is]")
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the weights.  [default: float32 on the CPU, else the checkpoint's]")
@click.option("--max-concurrent", type=int, help="Answers the model generates at once.  [default: 16; 4 if it cannot batch]")
@click.option("--trust-remote-code", is_flag=True, default=None, help="Let the checkpoint run code of its own.")
@click.option("--policy", type=click.Choice(POLICIES), help="What is done about repetition.  [default: balanced]")
@click.option("--workers", type=int, help="Processes that share the port, in front of an upstream.  [default: 1]")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE.toml", help="Settings; flags and DEDUP_* variables win.")
@click.option("--check-config", is_flag=True, help="Say what is wrong with the settings, or nothing, and end.")
def serve(config: Path | None, check_config: bool, **flags: Any) -> None:
    """Serves a model without its repetitions, over OpenAI's API.

    \b
    dedup serve                                        # the bundled demo model, to try it out
    dedup serve --model Qwen/Qwen3-0.6B                # any Hugging Face model
    dedup serve --upstream http://127.0.0.1:8001/v1    # in front of vLLM, llama.cpp, Ollama, a hosted API

    Then ask http://127.0.0.1:8000/v1/chat/completions; numbers for Prometheus are at /metrics.
    """
    from server.errors import StartupError
    from server.serve import run
    from server.settings import load

    try:
        settings = load(config, **flags)
        if check_config:
            click.echo(settings.summary())
            return
        if not settings.all_upstreams and not (find_spec("torch") and find_spec("transformers")):
            raise StartupError(
                'a model in this process needs torch and transformers: pip install "dedup-llm[local]"'
                " (or stand in front of a server: dedup serve --upstream URL)"
            )
        run(lambda: load(config, **flags))
    except StartupError as error:
        click.echo(f"dedup: error: {error}", err=True)
        sys.exit(1)


@main.command()
@click.option("--model", metavar="PATH_OR_HUB_ID", required=True, help="A Hugging Face model.")
@click.option("--before", default="", metavar="TEXT", help='Stands before the text, such as "summarize: ".')
@click.option("--after", default="", metavar="TEXT", help="Stands after it.")
@click.option("--overlap", default=64, show_default=True, help="Tokens that pieces of a long text have in common.")
@click.option("--max-tokens", type=int, help="Of the answer to a piece.  [default: half of the context]")
@click.option("--temperature", type=float, default=0.0, show_default=True)
@click.option("--seed", type=int)
@click.option("--device", metavar="DEVICE", help="Where the model runs: cpu, cuda, mps.  [default: the best there is]")
@click.option("--policy", type=click.Choice(POLICIES), default="balanced", show_default=True, help="What is removed.")
def generate(model: str, device: str | None, policy: Any, **parameters: Any) -> None:
    """Asks a model about a text: standard input to standard output.

    \b
    dedup generate --model t5-small --before "summarize: " < report.txt

    A text longer than the model's context is cut between paragraphs, or sentences, into pieces that overlap; the answers to them
    become one text, in which nothing is said twice.
    """
    if not (find_spec("torch") and find_spec("transformers")):
        raise click.ClickException('this needs torch and transformers: pip install "dedup-llm[local]"')
    from server.errors import ApiError, StartupError
    from server.generate import generate as run

    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def write(part: str) -> None:
        sys.stdout.buffer.write(part.encode("utf-8", "replace"))
        sys.stdout.buffer.flush()

    with _quiet_pipe():
        text = "".join(text for text, _ in _text_of_stdin())
        try:
            run(model, device, policy, text, parameters, write)
        except (ApiError, StartupError) as error:
            raise click.ClickException(str(error)) from None


@main.command("filter")
@click.option("--policy", type=click.Choice(POLICIES), default="balanced", show_default=True, help="What is removed.")
@click.option(
    "--on-loop",
    type=click.Choice(["cut", "skip"]),
    default="cut",
    show_default=True,
    help="At a loop: end the text, or drop the looping stretch and go on.",
)
@click.option("--jsonl", is_flag=True, help='One JSON object a line, {"id", "text"}, in and out.')
def filter_command(policy: Any, on_loop: Any, jsonl: bool) -> None:
    """Takes repetition out of a text: standard input to standard output.

    \b
    dedup filter < answer.txt
    some-program | dedup filter                  # as it comes, no waiting for the end
    dedup filter --jsonl < answers.jsonl         # {"id", "text"} to {"id", "text", "loop", "removed"}
    """
    config = FilterConfig(policy=policy, on_loop=on_loop)

    def filtered(text: str) -> Row:
        done = RepetitionFilter(config)
        out = done.feed(text) + done.flush()
        return {"text": out, "loop": asdict(done.loop) if done.loop else None, "removed": [asdict(span) for span in done.removed]}

    if policy not in ("off", "loops"):
        load_punkt()
    with _quiet_pipe():
        sys.exit(_each_line(filtered) if jsonl else _stream(RepetitionFilter(config)))


@main.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True), metavar="[FILE]...")
@click.option("--jsonl", is_flag=True, help='Standard input: {"id", "text"} a line; answered with a line of all numbers each.')
def score(files: tuple[str, ...], jsonl: bool) -> None:
    """Says how much texts repeat themselves: a table, the worst first.

    A file is a text, or JSON lines {"id", "text"}: then each line is one. Without files, standard input.

    \b
    dedup score answer.txt another.txt
    dedup score answers.jsonl
    dedup score --jsonl < answers.jsonl          # {"id", "rep_4", "diversity", ...} a line
    """
    if jsonl and files:
        raise click.UsageError("--jsonl reads standard input, not files")
    with _quiet_pipe():
        sys.exit(_each_line(repetition_metrics) if jsonl else _print_scores(files or ("-",)))


@main.command()
@click.argument("url")
@click.option("--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds between two looks.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many looks.  [default: at Ctrl-C]")
def watch(url: str, interval: float, count: int | None) -> None:
    """Shows what a server is doing, a line a model: its /metrics, read again and again.

    \b
    dedup watch http://127.0.0.1:8000
    dedup watch 127.0.0.1:8000 --interval 10 >> dedup.log    # plain lines

    Rates and shares are those of the time between two looks; the first look tells of all since the server's start.
    Ends with 1 if it was to look a number of times and the server was never there.
    """
    from server.watch import base_url
    from server.watch import watch as run

    try:
        address = base_url(url)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with _quiet_pipe():
        try:
            sys.exit(int(not asyncio.run(run(address, interval, count))))
        except KeyboardInterrupt:
            sys.exit(0)


@main.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="MODEL",
    help="PATH, HUB_ID or URL[#NAME]; the first is the yardstick.",
)
@click.option(
    "--prompts", type=click.Path(path_type=Path), required=True, metavar="FILE", help='A prompt a line, or .jsonl of {"prompt"}.'
)
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Answers to each prompt.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Of an answer.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.7, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--raw", is_flag=True, help="Prompts go to the model as they stand, without its chat template.")
@click.option(
    "--max-rise", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Allowed rise of loop rate and rep-4."
)
@click.option("--max-loop-rate", type=click.FloatRange(0, 1), help="Allowed share of answers that loop.")
@click.option(
    "--answers", type=click.Path(path_type=Path), metavar="FILE.jsonl", help="Keeps answers: a run goes on where it was."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Writes all numbers.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Writes a page with pictures.")
@click.option("--device", metavar="DEVICE", help="Where local models run: cpu, cuda, mps.  [default: the best there is]")
@click.option("--concurrency", type=click.IntRange(min=1), default=8, show_default=True, help="Prompts at once to a URL.")
@click.option("--api-key-env", metavar="NAME", help="Variable that holds the key for URLs.")
def audit(**asked: Any) -> None:
    """Does a model repeat itself more than another? Asks both the same, compares, and ends with 1 if so.

    \b
    dedup audit --model base --model my-fine-tune --prompts prompts.txt
    dedup audit --model http://127.0.0.1:8001/v1#base --model http://127.0.0.1:8002/v1 --prompts prompts.jsonl
    dedup audit --model my-model --prompts prompts.txt --max-loop-rate 0.01

    Answers are the model's own: no filter, no penalties. Every later model is compared with the first, prompt by prompt, and
    fails where its loop rate or rep-4 is higher by more than --max-rise with 95% confidence. --max-loop-rate holds for every
    model but the first; alone, a model is held to it itself. Exit code: 0 passed, 1 failed, 2 something is wrong.
    """
    from server.audit.report import lines
    from server.audit.run import run
    from server.errors import StartupError

    try:
        done = run(**asked)
    except StartupError as error:
        click.echo(f"dedup: error: {one_line(str(error))}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    with _quiet_pipe():
        for line in lines(done):
            click.echo(line)
    sys.exit(int(bool(done.failures)))


@main.command("export-pairs")
def export_pairs() -> None:
    """Makes preference pairs for training (DPO) of an incident log: standard input to standard output.

    \b
    DEDUP_INCIDENT_LOG=loops.jsonl dedup serve ...
    dedup export-pairs < loops.jsonl > pairs.jsonl      # {"prompt", "chosen", "rejected"} a line
    """
    failed = False
    with _quiet_pipe():
        for number, line in enumerate(sys.stdin.buffer, 1):
            if not line.strip():
                continue
            try:
                pair = preference_pair(_object(line))
            except ValueError as error:
                _complain(number, str(error))
                failed = True
                continue
            if pair is not None:
                sys.stdout.buffer.write(_encode(pair) + b"\n")
        sys.stdout.buffer.flush()
    sys.exit(int(failed))


def _complain(number: int, what: str, where: str = "") -> None:
    tqdm.write(f"{where}line {number}: {what}", file=sys.stderr)


def _each_line(answer: Callable[[str], Row]) -> int:
    """Answers each JSON line of standard input with one; names the lines that are wrong and goes on. Returns the exit code."""
    failed = False
    with tqdm(unit=" texts", disable=not sys.stderr.isatty(), desc="dedup") as progress:
        for number, line in enumerate(sys.stdin.buffer, 1):
            if not line.strip():
                continue
            try:
                row = _decode(line)
            except ValueError as error:
                _complain(number, str(error))
                failed = True
                continue
            sys.stdout.buffer.write(_encode({"id": row.get("id"), **answer(row["text"])}) + b"\n")
            progress.update()
    sys.stdout.buffer.flush()
    return int(failed)


def _decode(line: bytes) -> Row:
    """The object in `line`, which has a string `text`. Raises ValueError that says what is wrong."""
    row = _object(line)
    if not isinstance(row.get("text"), str):
        raise ValueError('must be an object with a string "text"')
    return row


def _object(line: bytes) -> Row:
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:  # the standard library's decoder takes half a surrogate pair
            row = json.loads(line, parse_constant=_no_number, parse_float=_finite)
        except UnicodeDecodeError:
            raise ValueError("invalid UTF-8") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"invalid JSON: {error.msg} (character {error.pos + 1})") from None
        except RecursionError:
            raise ValueError("invalid JSON: nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError('must be an object with a string "text"')
    return row


def _no_number(name: str) -> float:
    raise ValueError(f"invalid JSON: {name} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _no_number(digits)


def _encode(row: Row) -> bytes:
    try:
        return msgspec.json.encode(row)
    except UnicodeEncodeError:
        return json.dumps(row).encode()


def _text_of_stdin() -> Iterator[tuple[str, list[int]]]:
    """Standard input as it comes: text, with U+FFFD for bytes that are not UTF-8, and the numbers of the lines that have such."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    number = 1
    at_end = False
    while not at_end:
        received = os.read(sys.stdin.fileno(), READ_BYTES)
        at_end = not received
        text = decoder.decode(received, at_end)
        wrong = [number + i for i, line in enumerate(text.split("\n")) if not line.isascii() and _ESCAPED_BYTE.search(line)]
        number += text.count("\n")
        yield (text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if wrong else text), wrong


def _stream(repetition_filter: RepetitionFilter) -> int:
    failed = False
    for text, wrong in _text_of_stdin():
        for number in wrong:
            _complain(number, "invalid UTF-8")
            failed = True
        if out := repetition_filter.feed(text):
            sys.stdout.buffer.write(out.encode())
            sys.stdout.buffer.flush()
    sys.stdout.buffer.write(repetition_filter.flush().encode())
    sys.stdout.buffer.flush()
    return int(failed)


def _print_scores(files: tuple[str, ...]) -> int:
    rows: list[tuple[str, str]] = []
    failed = False
    for file in files:
        try:
            data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        except OSError as error:
            raise click.ClickException(f"{file}: {error.strerror or error}") from None
        found, all_right = _texts_in(data, file, f"{one_line(file)}: " if len(files) > 1 else "")
        rows += found
        failed = failed or not all_right
    progress = tqdm(rows, unit=" texts", disable=not sys.stderr.isatty(), desc="dedup", leave=False)
    for line in table([(one_line(name), score_of(text)) for name, text in progress]):
        click.echo(line)
    return int(failed)


def _texts_in(data: bytes, file: str, where: str) -> tuple[list[tuple[str, str]], bool]:
    """Names and texts in a file: JSON lines if it is called so or begins as such, else one text. And whether all of it was right.

    where: stands before what is said of a line and before the id of a text.
    """
    lines = data.split(b"\n")
    if file.endswith(".jsonl") or _is_row(next(filter(bytes.strip, lines), b"")):
        rows, all_right = [], True
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = _decode(line)
            except ValueError as error:
                _complain(number, str(error), where)
                all_right = False
            else:
                name = row.get("id")
                rows.append((where + (f"line {number}" if name is None else str(name)), row["text"]))
        return rows, all_right
    try:
        text, all_right = data.decode(), True
    except UnicodeDecodeError as error:
        _complain(data.count(b"\n", 0, error.start) + 1, "invalid UTF-8", where)
        text, all_right = data.decode("utf-8", "replace"), False
    return [("standard input" if file == "-" else file, text)], all_right


def _is_row(line: bytes) -> bool:
    try:
        _decode(line)
    except ValueError:
        return False
    return True


class _quiet_pipe:  # noqa: N801 - used as a statement
    """A reader that has seen enough (`| head`) is no error; a disk that is full is one line."""

    def __enter__(self) -> None:
        for name, stream in (("input", sys.stdin), ("output", sys.stdout)):
            if stream is None:  # the shell closed it: `<&-`
                raise click.ClickException(f"standard {name} is closed")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if not isinstance(error, OSError):
            return False
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or what is buffered would fail once more at the end
        if isinstance(error, BrokenPipeError):
            return True
        raise click.ClickException(f"standard output: {error.strerror or error}")


if __name__ == "__main__":
    main()
