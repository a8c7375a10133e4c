"""The command line `dedup`: one file a command.

Other packages add commands through the entry point group `dedup.commands`.
"""

from dedup.cli.main import main

__all__ = ["main"]
