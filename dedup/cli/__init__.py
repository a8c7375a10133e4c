"""The command line, `dedup`: a file a command; those of the server come through the entry points `dedup.commands`."""

from dedup.cli.main import main

__all__ = ["main"]
