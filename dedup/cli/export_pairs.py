"""The command `dedup export-pairs`."""

import sys
from collections.abc import Callable
from typing import Any

import click

from dedup.cli.streams import Row, decode_object, encode, quiet_pipe, report_line
from dedup.training.incidents import incident_of
from dedup.training.pairs import preference_pair


@click.command("export-pairs")
@click.option(
    "--format",
    "row_format",
    type=click.Choice(["dpo", "ftpo"]),
    default="dpo",
    show_default=True,
    help="Rows for DPO: whole answers; for FTPO: the token that starts a loop, and alternatives.",
)
@click.option(
    "--model",
    help="ftpo: the model that looped, a folder or a hub id. Needs dedup-llm[local].",
)
@click.option(
    "--raw", is_flag=True, help="Answers were completed from their prompts without a chat template."
)
def export_pairs(row_format: Any, model: str | None, raw: bool) -> None:
    """Convert loops to training data.

    Reads standard input, writes standard output: lines of an incident log, or of answers with their
    "prompt" and "text", such as `dedup audit --answers` writes. DPO needs a healed answer: there is
    a row for each loop that was healed. FTPO needs only the loop.

    \b
    DEDUP_INCIDENT_LOG=loops.jsonl dedup serve ...
    dedup export-pairs < loops.jsonl > pairs.jsonl   # {"prompt", "chosen", "rejected"}
    dedup export-pairs --format ftpo --model base-model < loops.jsonl > rows.jsonl
    """
    row_of = _row_of(row_format, model)
    failed = False
    with quiet_pipe():
        for number, line in enumerate(sys.stdin.buffer, 1):
            if not line.strip():
                continue
            try:
                incident = incident_of(decode_object(line), raw=raw)
                row = row_of(incident) if incident else None
            except ValueError as error:
                report_line(number, str(error))
                failed = True
                continue
            if row is not None:
                sys.stdout.buffer.write(encode(row) + b"\n")
        sys.stdout.buffer.flush()
    sys.exit(int(failed))


def _row_of(row_format: str, model: str | None) -> Callable[[Row], Row | None]:
    """Return the function that makes a row of an incident."""
    if row_format == "dpo":
        if model:
            raise click.UsageError("--model is for --format ftpo")
        return preference_pair
    if not model:
        raise click.UsageError("--format ftpo needs --model: the alternatives are the model's own")
    try:
        from dedup.training.ftpo import FtpoRows

        return FtpoRows.from_pretrained(model).row
    except ImportError:
        raise click.ClickException(
            '--format ftpo needs torch and transformers: pip install "dedup-llm[local]"'
        ) from None
    except (OSError, ValueError) as error:
        raise click.ClickException(f"--model: {error}") from None
