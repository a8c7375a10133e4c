"""`dedup export-pairs`."""

import sys

import click

from dedup.cli.streams import complain, encode, object_in, quiet_pipe
from dedup.pairs import preference_pair


@click.command("export-pairs")
def export_pairs() -> None:
    """Makes preference pairs for training (DPO) of an incident log: standard input to standard output.

    \b
    DEDUP_INCIDENT_LOG=loops.jsonl dedup serve ...
    dedup export-pairs < loops.jsonl > pairs.jsonl      # {"prompt", "chosen", "rejected"} a line
    """
    failed = False
    with quiet_pipe():
        for number, line in enumerate(sys.stdin.buffer, 1):
            if not line.strip():
                continue
            try:
                pair = preference_pair(object_in(line))
            except ValueError as error:
                complain(number, str(error))
                failed = True
                continue
            if pair is not None:
                sys.stdout.buffer.write(encode(pair) + b"\n")
        sys.stdout.buffer.flush()
    sys.exit(int(failed))
