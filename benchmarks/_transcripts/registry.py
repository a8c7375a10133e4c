"""The list of all stories."""

import re
from collections.abc import Callable, Sequence
from typing import Final

from .story import Api, Story

STORIES: Final[list[Callable[[], Story]]] = []
THREAD: Final = re.compile(r"([\w.-]+/[\w.-]+)#(\d+)")


def urls(threads: str) -> str:
    """Return `owner/repo#1 owner/repo#2` as URLs of GitHub threads."""
    return THREAD.sub(r"https://github.com/\1/issues/\2", threads)


def story(
    name: str, api: Api, kind: str, threads: str, *, cycle: int = 0, repeatable: Sequence[str] = ()
) -> Callable[[Callable[[Story], None]], Callable[[Story], None]]:
    """Register a function that writes a story."""

    def register(write: Callable[[Story], None]) -> Callable[[Story], None]:
        def build() -> Story:
            it = Story(name, api, kind, urls(threads), cycle=cycle, repeatable=repeatable)
            write(it)
            return it

        STORIES.append(build)
        return write

    return register
