"""The tests run what is installed: the filter's compiled form, where there is one."""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import dedup


def pytest_sessionstart() -> None:
    for source in Path(dedup.__file__).parent.glob("*.py"):
        compiled = source.with_name(f"{source.stem}__mypyc{EXTENSION_SUFFIXES[0]}")
        if compiled.exists() and compiled.stat().st_mtime < source.stat().st_mtime:
            pytest.exit(f"{source.name} is newer than its compiled form, which would be tested in its stead: run `make test`", 4)
