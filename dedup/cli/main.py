"""The command `dedup`."""

from importlib.metadata import EntryPoint, entry_points

import click

from dedup.cli.export_pairs import export_pairs
from dedup.cli.filter import filter_command
from dedup.cli.score import score
from dedup.version import build_form, version

_GROUP = "dedup.commands"


class _Commands(click.Group):
    """The library's commands, and those that other packages name in the entry point group `dedup.commands`."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*super().list_commands(context), *_others()})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        command = super().get_command(context, name)
        if command or not (other := _others().get(name)):
            return command
        try:
            loaded = other.load()
        except ImportError as error:
            raise click.ClickException(
                f"{name} ({other.value}) cannot be loaded: {error}"
            ) from None
        if not isinstance(loaded, click.Command):
            raise click.ClickException(f"{name} ({other.value}) is no command of click")
        return loaded


def _others() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_GROUP)}


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(
    version(), prog_name="dedup", message=f"%(prog)s %(version)s ({build_form()})"
)
def main() -> None:
    """Stops language models from repeating themselves.

    `dedup serve` puts an OpenAI-compatible server in front of a model; `dedup generate` asks one about a text of any length;
    `dedup filter` cleans texts; `dedup score` measures them; `dedup watch` shows what a server is doing; `dedup audit` says whether a
    model repeats itself more than another.
    """


for _command in (filter_command, score, export_pairs):
    main.add_command(_command)
