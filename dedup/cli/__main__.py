"""Run the command line: `python -m dedup.cli`."""

from dedup.cli.main import main

main(prog_name="dedup")
