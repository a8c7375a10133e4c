"""The server's commands: `dedup serve | generate | watch | audit`.

The entry point group `dedup.commands` lists them. A command imports what it needs when it runs, so
that `dedup --help` needs no extra.
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
    exit_code = 2  # 1 is a result of `dedup audit`


def _require(*extras: str) -> None:
    """Raise `_MissingExtra` if packages of `extras` are not installed."""
    missing = [extra for extra in extras if not all(map(find_spec, _NEEDED[extra]))]
    if missing:
        raise _MissingExtra(
            f'this command needs an extra: pip install "dedup-llm[{",".join(missing)}]"'
        )


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on.  [default: 8000]")
@click.option(
    "--model",
    metavar="PATH_OR_HUB_ID",
    help="A model to serve: a folder, a GGUF file or a hub id.  [default: the bundled demo model]",
)
@click.option(
    "--upstream",
    metavar="URL",
    help="An OpenAI-compatible server to proxy, e.g. http://127.0.0.1:8001/v1.",
)
@click.option(
    "--device",
    metavar="DEVICE",
    help="Device of the model: cpu, cuda, mps.  [default: the fastest available]",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Data type of the weights.  [default: the fastest on the CPU, else the checkpoint's]",
)
@click.option(
    "--max-concurrent",
    type=int,
    help="Completions generated at once.  [default: 16; 4 without batching]",
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
    help="How repetition is handled.  [default: balanced]",
)
@click.option(
    "--agent-loops",
    metavar="RUNG,...",
    help="What is done about an agent in a loop: nudge, answer, stop, or several of them."
    "  [default: it is measured]",
)
@click.option(
    "--repeatable-tools",
    metavar="TOOL,...",
    help="Tools that agents may call again and again.",
)
@click.option(
    "--workers",
    type=int,
    help="Processes that share the port; needs an upstream.  [default: 1]",
)
@click.option("--admin-host", help="Address of the admin port.  [default: that of --host]")
@click.option(
    "--admin-port",
    type=int,
    help="Serve /metrics and /health here, and no /metrics at --port.  [default: one port]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Settings file; flags and DEDUP_* variables override it.",
)
@click.option(
    "--check-config", is_flag=True, help="Print the settings, or what is wrong with them, and exit."
)
def serve(config: Path | None, check_config: bool, **flags: Any) -> None:
    """Serve a model without its repetitions over OpenAI's API.

    \b
    dedup serve                                      # the bundled demo model
    dedup serve --model Qwen/Qwen3-0.6B              # any Hugging Face model
    dedup serve --model smollm2.gguf                 # a GGUF file
    dedup serve --upstream http://127.0.0.1:8001/v1  # in front of vLLM, llama.cpp, Ollama, ...

    Send requests to http://127.0.0.1:8000/v1/chat/completions. Metrics for Prometheus are at
    /metrics.
    """
    _require("server")
    from dedup_server.errors import StartupError
    from dedup_server.logs import report_failure
    from dedup_server.process.serve import run
    from dedup_server.settings import load

    try:
        settings = load(config, **flags)
        if check_config:
            click.echo(settings.summary())
            return
        run(lambda: load(config, **flags))
    except StartupError as error:
        report_failure(error)
        sys.exit(1)


@click.command()
@click.option(
    "--model", metavar="PATH_OR_HUB_ID", required=True, help="A folder, a GGUF file or a hub id."
)
@click.option(
    "--before", default="", metavar="TEXT", help='Text before the input, such as "summarize: ".'
)
@click.option("--after", default="", metavar="TEXT", help="Text after the input.")
@click.option(
    "--overlap",
    default=64,
    show_default=True,
    help="Tokens that adjacent pieces of a long input share.",
)
@click.option(
    "--max-tokens", type=int, help="Tokens generated per piece.  [default: half of the context]"
)
@click.option("--temperature", type=float, default=0.0, show_default=True)
@click.option("--seed", type=int)
@click.option(
    "--device",
    metavar="DEVICE",
    help="Device of the model: cpu, cuda, mps.  [default: the fastest available]",
)
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default="balanced",
    show_default=True,
    help="How repetition is handled.",
)
def generate(model: str, device: str | None, policy: Any, **parameters: Any) -> None:
    """Generate from a text of any length: standard input to standard output.

    \b
    dedup generate --model t5-small --before "summarize: " < report.txt

    A text longer than the model's context is split between paragraphs or sentences into pieces that
    overlap. The completions of the pieces are joined, without what the overlap repeats.
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
    help="Seconds between two scrapes.",
)
@click.option(
    "--count", type=click.IntRange(min=1), help="Number of scrapes.  [default: until Ctrl-C]"
)
def watch(url: str, interval: float, count: int | None) -> None:
    """Show the metrics of a running server, one line per model.

    \b
    dedup watch http://127.0.0.1:8000
    dedup watch 127.0.0.1:8000 --interval 10 >> dedup.log    # plain lines

    Rates and shares cover the time between two scrapes of /metrics; the first line covers all since
    the server's start. With --count, the exit code is 1 if no scrape succeeded.
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
    help="PATH, HUB_ID or URL[#NAME]; the first is the baseline.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help='One prompt per line; in .jsonl: {"prompt": ...}.',
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Completions per prompt.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Per completion.",
)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.7, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--raw", is_flag=True, help="Send prompts without the model's chat template.")
@click.option(
    "--max-rise",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Allowed increase of loop rate and rep-4.",
)
@click.option(
    "--max-loop-rate", type=click.FloatRange(0, 1), help="Allowed share of completions that loop."
)
@click.option(
    "--answers",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Store completions here, to resume an interrupted run.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write all figures as JSON.",
)
@click.option(
    "--html",
    "html_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a report with charts.",
)
@click.option(
    "--device",
    metavar="DEVICE",
    help="Device of local models: cpu, cuda, mps.  [default: the fastest available]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Concurrent requests to a URL.",
)
@click.option("--api-key-env", metavar="NAME", help="Variable that holds the key for URLs.")
def audit(**options: Any) -> None:
    """Compare how much models repeat themselves; fail if a later one repeats more than the first.

    \b
    dedup audit --model base --model my-fine-tune --prompts prompts.txt
    dedup audit --model http://one:8000/v1#base --model http://two:8000/v1 --prompts prompts.jsonl
    dedup audit --model my-model --prompts prompts.txt --max-loop-rate 0.01

    All models complete the same prompts without filter and penalties. Every later model is compared
    with the first, prompt by prompt. It fails if its loop rate or rep-4 is higher by more than
    --max-rise with 95% confidence. --max-loop-rate applies to every model but the first, or to the
    only one. Exit code: 0 passed, 1 failed, 2 an error.
    """
    _require("server")
    from dedup_server.audit.report import lines
    from dedup_server.audit.run import run
    from dedup_server.errors import StartupError

    try:
        done = run(**options)
    except StartupError as error:
        click.echo(f"dedup: error: {one_line(str(error))}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    with quiet_pipe():
        for line in lines(done):
            click.echo(line)
    sys.exit(int(bool(done.failures)))
