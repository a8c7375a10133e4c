"""The command `dedup`, which groups all others."""

from importlib.metadata import EntryPoint, entry_points

import click

from dedup.cli.corpus import corpus
from dedup.cli.export_pairs import export_pairs
from dedup.cli.filter import filter_command
from dedup.cli.score import score
from dedup.version import build_form, version

_GROUP = "dedup.commands"


class _Commands(click.Group):
    """The commands of the library, and those in the entry point group `dedup.commands`."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(context), *_entry_points()})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command; None if there is none of that name.

        Raises:
            click.ClickException: an entry point cannot be loaded, or is not a command.
        """
        command = super().get_command(context, name)
        if command or not (entry_point := _entry_points().get(name)):
            return command
        try:
            loaded = entry_point.load()
        except ImportError as error:
            raise click.ClickException(
                f"{name} ({entry_point.value}) cannot be loaded: {error}"
            ) from None
        if not isinstance(loaded, click.Command):
            raise click.ClickException(f"{name} ({entry_point.value}) is not a click command")
        return loaded


def _entry_points() -> dict[str, EntryPoint]:
    """Return the entry points of commands, by name."""
    return {point.name: point for point in entry_points(group=_GROUP)}


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(
    version(), prog_name="dedup", message=f"%(prog)s %(version)s ({build_form()})"
)
def main() -> None:
    """Stop language models from repeating themselves.

    `dedup COMMAND --help` explains a command and its options. Begin with `dedup serve`, a server in
    front of any model, or with `dedup filter` and `dedup score` for texts that you have.
    """


for _command in (filter_command, score, export_pairs, corpus):
    main.add_command(_command)
