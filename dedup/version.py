"""The installed version, and whether it is compiled."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Literal

from dedup.text import words

BuildForm = Literal["compiled", "interpreted"]


def version() -> str:
    """Return the installed version; "unknown" in a checkout that was never installed."""
    try:
        return version_of("dedup-llm")
    except PackageNotFoundError:
        return "unknown"


def build_form() -> BuildForm:
    """Return whether `dedup.text` is compiled. Interpreted, it is two to three times slower."""
    if words.__file__.endswith(".py"):
        return "interpreted"
    return "compiled"
