"""The command `dedup export-pairs`."""

import sys

import click

from dedup.cli.streams import decode_object, encode, quiet_pipe, report_line
from dedup.pairs import preference_pair


@click.command("export-pairs")
def export_pairs() -> None:
    """Convert an incident log to preference pairs.

    The pairs are for DPO training, one for each loop that was healed. Reads standard input, writes
    standard output.

    \b
    DEDUP_INCIDENT_LOG=loops.jsonl dedup serve ...
    dedup export-pairs < loops.jsonl > pairs.jsonl   # {"prompt", "chosen", "rejected"}
    """
    failed = False
    with quiet_pipe():
        for number, line in enumerate(sys.stdin.buffer, 1):
            if not line.strip():
                continue
            try:
                pair = preference_pair(decode_object(line))
            except ValueError as error:
                report_line(number, str(error))
                failed = True
                continue
            if pair is not None:
                sys.stdout.buffer.write(encode(pair) + b"\n")
        sys.stdout.buffer.flush()
    sys.exit(int(failed))
