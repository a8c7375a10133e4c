"""Finds the snippets of the documentation: fenced blocks, with the reason where one cannot run."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r"^(?:<!-- (?P<why>not run|run by): (?P<reason>[^\n]+) -->\n)?```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^```$",
    re.M | re.S,
)
_INLINE = re.compile(r"`((?:make |python benchmarks/|dedup [a-z]|pip install )[^`]*)`")


@dataclass(frozen=True)
class Snippet:
    """A fenced block.

    reason: why it does not run here. run_by: the make target that runs it instead. output: the text of the block right behind it, which
    it must print.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None
    output: str | None = None
    run_by: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets_in(page: str, text: str) -> Iterator[Snippet]:
    """Yield the blocks of a page in order, each with its output instead of the block that holds it."""
    found = list(_FENCE.finditer(text))
    taken = set()
    for number, match in enumerate(found):
        if number in taken:
            continue
        output = None
        after = found[number + 1] if number + 1 < len(found) else None
        if (
            match["language"] in ("sh", "python")
            and after
            and after["language"] == "text"
            and not text[match.end() : after.start()].strip()
        ):
            output = after["text"]
            taken.add(number + 1)
        yield Snippet(
            page,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            match["text"],
            match["reason"] if match["why"] == "not run" else None,
            output,
            match["reason"] if match["why"] == "run by" else None,
        )


def snippets() -> list[Snippet]:
    return [
        snippet
        for path in PAGES
        for snippet in snippets_in(str(path.relative_to(ROOT)), path.read_text("utf-8"))
    ]


def inline_commands() -> list[tuple[str, str]]:
    """Return the commands named in running text, with their pages."""
    return [
        (str(path.relative_to(ROOT)), command)
        for path in PAGES
        for command in _INLINE.findall(_FENCE.sub("", path.read_text("utf-8")))
    ]


def commands_of(text: str) -> list[str]:
    """Return a shell block's commands without comments; quotes and a backslash go on over lines."""
    commands = [""]
    quote = ""
    in_comment = False
    for before, letter in zip("\n" + text, text, strict=False):
        in_comment = in_comment and letter != "\n"
        if not quote and letter == "#" and before.isspace():
            in_comment = True
        if in_comment:
            continue
        if letter in ("'", '"') and quote in ("", letter):
            quote = "" if quote else letter
        if letter == "\n" and not quote and before != "\\":
            commands.append("")
        else:
            commands[-1] += letter
    return [command.strip() for command in commands if command.strip()]
