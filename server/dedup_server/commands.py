"""The server's commands: `dedup serve | generate | watch | audit`. The entry points `dedup.commands` name them.

Nothing is imported before its command runs, so that `dedup --help` needs no extra.
"""

import asyncio
import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from dedup.cli.streams import quiet_pipe, text_of_stdin
from dedup.config import POLICIES
from dedup.terminal import one_line

DTYPES = ["auto", "float32", "bfloat16", "float16"]
_NEEDED = {
    "server": ("fastapi", "uvicorn", "httptools", "prometheus_client"),
    "local": ("torch", "transformers"),
}


class _MissingExtra(click.ClickException):
    exit_code = 2  # 1 is an answer of `dedup audit`


def _require(*extras: str) -> None:
    """Raise `_MissingExtra` that names the extras to install, if what they bring is not there."""
    missing = [extra for extra in extras if not all(map(find_spec, _NEEDED[extra]))]
    if missing:
        raise _MissingExtra(
            f'this needs more than the library: pip install "dedup-llm[{",".join(missing)}]"'
        )


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on.  [default: 8000]")
@click.option(
    "--model",
    metavar="PATH_OR_HUB_ID",
    help="A Hugging Face model to serve.  [default: the bundled demo model]",
)
@click.option(
    "--upstream",
    metavar="URL",
    help="An OpenAI-compatible server to stand in front of, e.g. http://127.0.0.1:8001/v1.",
)
@click.option(
    "--device",
    metavar="DEVICE",
    help="Where the model runs: cpu, cuda, mps.  [default: the best there is]",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Of the weights.  [default: float32 on the CPU, else the checkpoint's]",
)
@click.option(
    "--max-concurrent",
    type=int,
    help="Answers the model generates at once.  [default: 16; 4 if it cannot batch]",
)
@click.option(
    "--trust-remote-code",
    is_flag=True,
    default=None,
    help="Let the checkpoint run code of its own.",
)
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    help="What is done about repetition.  [default: balanced]",
)
@click.option(
    "--workers",
    type=int,
    help="Processes that share the port, in front of an upstream.  [default: 1]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Settings; flags and DEDUP_* variables win.",
)
@click.option(
    "--check-config", is_flag=True, help="Say what is wrong with the settings, or nothing, and end."
)
def serve(config: Path | None, check_config: bool, **flags: Any) -> None:
    """Serves a model without its repetitions, over OpenAI's API.

    \b
    dedup serve                                        # the bundled demo model, to try it out
    dedup serve --model Qwen/Qwen3-0.6B                # any Hugging Face model
    dedup serve --upstream http://127.0.0.1:8001/v1    # in front of vLLM, llama.cpp, Ollama, a hosted API

    Then ask http://127.0.0.1:8000/v1/chat/completions; numbers for Prometheus are at /metrics.
    """
    _require("server")
    from dedup_server.errors import StartupError
    from dedup_server.process.serve import run
    from dedup_server.settings import load

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


@click.command()
@click.option("--model", metavar="PATH_OR_HUB_ID", required=True, help="A Hugging Face model.")
@click.option(
    "--before", default="", metavar="TEXT", help='Stands before the text, such as "summarize: ".'
)
@click.option("--after", default="", metavar="TEXT", help="Stands after it.")
@click.option(
    "--overlap",
    default=64,
    show_default=True,
    help="Tokens that pieces of a long text have in common.",
)
@click.option(
    "--max-tokens", type=int, help="Of the answer to a piece.  [default: half of the context]"
)
@click.option("--temperature", type=float, default=0.0, show_default=True)
@click.option("--seed", type=int)
@click.option(
    "--device",
    metavar="DEVICE",
    help="Where the model runs: cpu, cuda, mps.  [default: the best there is]",
)
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default="balanced",
    show_default=True,
    help="What is removed.",
)
def generate(model: str, device: str | None, policy: Any, **parameters: Any) -> None:
    """Asks a model about a text: standard input to standard output.

    \b
    dedup generate --model t5-small --before "summarize: " < report.txt

    A text longer than the model's context is cut between paragraphs, or sentences, into pieces that overlap; the answers to them
    become one text, in which nothing is said twice.
    """
    _require("server", "local")
    from dedup_server.errors import ApiError, StartupError
    from dedup_server.generate import generate as run

    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def write(part: str) -> None:
        sys.stdout.buffer.write(part.encode("utf-8", "replace"))
        sys.stdout.buffer.flush()

    with quiet_pipe():
        text = "".join(text for text, _ in text_of_stdin())
        try:
            run(model, device, policy, text, parameters, write)
        except (ApiError, StartupError) as error:
            raise click.ClickException(str(error)) from None


@click.command()
@click.argument("url")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option(
    "--count", type=click.IntRange(min=1), help="End after so many looks.  [default: at Ctrl-C]"
)
def watch(url: str, interval: float, count: int | None) -> None:
    """Shows what a server is doing, a line a model: its /metrics, read again and again.

    \b
    dedup watch http://127.0.0.1:8000
    dedup watch 127.0.0.1:8000 --interval 10 >> dedup.log    # plain lines

    Rates and shares are those of the time between two looks; the first look tells of all since the server's start.
    Ends with 1 if it was to look a number of times and the server was never there.
    """
    _require("server")
    from dedup_server.watch import base_url
    from dedup_server.watch import watch as run

    try:
        address = base_url(url)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with quiet_pipe():
        try:
            sys.exit(int(not asyncio.run(run(address, interval, count))))
        except KeyboardInterrupt:
            sys.exit(0)


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="MODEL",
    help="PATH, HUB_ID or URL[#NAME]; the first is the yardstick.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help='A prompt a line, or .jsonl of {"prompt"}.',
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Answers to each prompt.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Of an answer."
)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.7, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--raw", is_flag=True, help="Prompts go to the model as they stand, without its chat template."
)
@click.option(
    "--max-rise",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Allowed rise of loop rate and rep-4.",
)
@click.option(
    "--max-loop-rate", type=click.FloatRange(0, 1), help="Allowed share of answers that loop."
)
@click.option(
    "--answers",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Keeps answers: a run goes on where it was.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Writes all numbers.",
)
@click.option(
    "--html",
    "html_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Writes a page with pictures.",
)
@click.option(
    "--device",
    metavar="DEVICE",
    help="Where local models run: cpu, cuda, mps.  [default: the best there is]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Prompts at once to a URL.",
)
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
    _require("server")
    from dedup_server.audit.report import lines
    from dedup_server.audit.run import run
    from dedup_server.errors import StartupError

    try:
        done = run(**asked)
    except StartupError as error:
        click.echo(f"dedup: error: {one_line(str(error))}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    with quiet_pipe():
        for line in lines(done):
            click.echo(line)
    sys.exit(int(bool(done.failures)))
