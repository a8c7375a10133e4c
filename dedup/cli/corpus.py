"""The commands `dedup corpus audit` and `dedup corpus clean`."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from tqdm import tqdm

from dedup.cli.streams import quiet_pipe

if TYPE_CHECKING:
    from dedup.corpus.jobs import Job

_NEEDED: Final = ("datatrove", "datasets", "orjson", "pyarrow", "warcio", "zstandard")


class _Threshold(click.ParamType[tuple[str, float]]):
    """A signal's name and its greatest value: NAME=VALUE."""

    name = "threshold"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        name, _, number = value.partition("=")
        try:
            found = (name, float(number))
        except ValueError:
            self.fail(f"{value!r} is not NAME=VALUE, such as loop_char_frac=0.1", param, context)
        from dedup.corpus.thresholds import check_thresholds

        try:
            check_thresholds(dict([found]))
        except ValueError as error:
            self.fail(str(error), param, context)
        return found


_OPTIONS: Final = (
    click.argument("path", metavar="PATH_OR_DATASET"),
    click.option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Folder of the results, and of the state from which an interrupted run goes on."
        "  [default: corpus-audit or corpus-clean]",
    ),
    click.option(
        "--sample",
        type=click.FloatRange(0, 1, min_open=True),
        default=1.0,
        show_default=True,
        help="Share of the documents that is read, chosen by their ids.",
    ),
    click.option(
        "--workers", type=click.IntRange(1), help="Tasks at a time.  [default: the cores]"
    ),
    click.option(
        "--ray",
        "ray_address",
        metavar="ADDRESS",
        help="Run on a Ray cluster, such as 10.0.0.1:6379 or auto; FOLDER must be shared.",
    ),
    click.option(
        "--text-key", default="text", show_default=True, help="Field of a row with its text."
    ),
    click.option("--split", default="train", show_default=True, help="Split of a dataset."),
    click.option(
        "--format",
        "data_format",
        type=click.Choice(["jsonl", "parquet", "warc", "text", "dataset"]),
        help="What is read.  [default: what the names of the files say]",
    ),
    click.option(
        "--threshold",
        "thresholds",
        type=_Threshold(),
        multiple=True,
        metavar="NAME=VALUE",
        help="Greatest value of a signal. May be repeated; replaces the default thresholds.",
    ),
    click.option(
        "--gopher", is_flag=True, help="Thresholds of Gopher's filter, for languages with spaces."
    ),
)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def corpus() -> None:
    """Find repetition in training data, and filter it.

    Needs: pip install 'dedup-llm[corpus]'.
    """


@corpus.command()
@_with_options
@click.option(
    "--fail-above",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Exit with 1 if the filter would take more than this share of the characters.",
)
def audit(path: str, fail_above: float | None, **options: Any) -> None:
    """Report how much of a corpus repeats itself, and where it comes from.

    Reads JSON lines, Parquet, WARC and plain text, also packed (.gz, .zst), in a file, a folder or
    at a URL (s3://...), or a dataset of the Hugging Face hub. Rows with `messages` are chats.
    Prints a report and writes FOLDER/report.json and FOLDER/report.html.

    \b
    dedup corpus audit corpus/
    dedup corpus audit s3://bucket/crawl --sample 0.01 --workers 32
    dedup corpus audit chats.jsonl --fail-above 0.02
    """
    job = _job(path, options, "corpus-audit")
    from dedup.corpus import jobs, page, report

    results = _run(lambda: jobs.audit(job))
    folder = job.output
    _write(f"{folder}/report.json", json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    _write(f"{folder}/report.html", page.html(results, fail_above))
    with quiet_pipe():
        for line in report.lines(results):
            click.echo(line)
        click.echo(f"\nreport: {folder}/report.html, {folder}/report.json")
    if not results["totals"].get("documents"):
        raise click.ClickException(f"{path}: no document with a text (field {job.text_key!r})")
    if fail_above is not None and report.taken_share(results) > fail_above:
        share = report.taken_share(results)
        click.echo(
            f"failed: the filter would take {share:.2%}, more than {fail_above:.2%}", err=True
        )
        sys.exit(1)


@corpus.command()
@_with_options
@click.option(
    "--edit",
    is_flag=True,
    help="Remove the repetition from a document where that suffices, instead of dropping it.",
)
def clean(path: str, edit: bool, **options: Any) -> None:
    """Write a corpus without the documents that repeat themselves.

    Writes JSON lines: FOLDER/kept, and FOLDER/excluded with the reason and all signals of each
    document.

    \b
    dedup corpus clean corpus/ -o cleaned
    dedup corpus clean corpus/ -o cleaned --edit --threshold loop_char_frac=0.1
    """
    job = _job(path, options, "corpus-clean")
    from dedup.corpus import jobs

    counts = _run(lambda: jobs.clean(job, "edit" if edit else "drop"))
    with quiet_pipe():
        click.echo(f"kept      {counts['kept']:,} documents, {counts['edited']:,} of them edited")
        click.echo(f"excluded  {counts['excluded']:,} documents")
        for reason, count in sorted(counts["reasons"].items(), key=lambda item: -item[1]):
            click.echo(f"  {reason} {count:,}")
        click.echo(f"\n{job.output}/kept, {job.output}/excluded")


def _job(path: str, options: dict[str, Any], output: str) -> "Job":
    """Return the job that the options describe.

    Raises:
        click.ClickException: the extra `corpus` is missing, or an option is invalid.
    """
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise click.ClickException(f"{', '.join(missing)} missing: pip install 'dedup-llm[corpus]'")
    from loguru import logger

    from dedup.corpus.jobs import Job
    from dedup.corpus.run import default_workers
    from dedup.corpus.thresholds import DEFAULT, GOPHER

    logger.remove()  # the terminal shows progress and the report; tasks log to files
    thresholds = dict(options.pop("thresholds"))
    if options.pop("gopher"):
        thresholds = {**GOPHER, **thresholds}
    options["workers"] = options["workers"] or default_workers()
    options["output"] = (options["output"] or output).rstrip("/")
    return Job(path=path, thresholds=thresholds or DEFAULT, on_progress=_Progress(), **options)


def _run(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a job; report in one line what it cannot do."""
    from dedup.corpus.run import CorpusError

    try:
        return work()
    except (CorpusError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None


def _write(path: str, text: str) -> None:
    if "://" not in path:
        Path(path).write_text(text, "utf-8")
        return
    import fsspec

    with fsspec.open(path, "wt", encoding="utf-8") as file:
        file.write(text)


class _Progress:
    """A bar for each stage."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._stage = ""

    def __call__(self, stage: str, done: int, tasks: int) -> None:
        if stage != self._stage:
            if self._bar:
                self._bar.close()
            self._stage = stage
            self._bar = tqdm(
                total=tasks,
                desc=stage,
                unit=" tasks",
                disable=not sys.stderr.isatty(),
                leave=False,
            )
        assert self._bar is not None
        self._bar.update(done - self._bar.n)
        if done == tasks:
            self._bar.close()
