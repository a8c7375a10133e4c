"""Which version runs, and in which form."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Literal

from dedup.text import words

BuildForm = Literal["compiled", "interpreted"]


def version() -> str:
    """Return the version that is installed; "unknown" in a checkout that never was."""
    try:
        return version_of("dedup-llm")
    except PackageNotFoundError:
        return "unknown"


def build_form() -> BuildForm:
    """Return whether the text room runs compiled, as it does where there was a C compiler, or two to three times slower."""
    return "interpreted" if words.__file__.endswith(".py") else "compiled"
