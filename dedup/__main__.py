"""`python -m dedup`: the command `dedup` of the interpreter at hand."""

from dedup.cli import main

main()
