"""The tests run what is installed: the compiled form of a module, where there is one."""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import dedup


def pytest_sessionstart() -> None:
    root = Path(dedup.__file__).parent.parent
    for source in [*root.glob("dedup/*.py"), *root.glob("server/**/*.py")]:
        compiled = source.with_name(f"{source.stem}__mypyc{EXTENSION_SUFFIXES[0]}")
        if compiled.exists() and compiled.stat().st_mtime < source.stat().st_mtime:
            pytest.exit(f"{source.name} is newer than its compiled form, which would be tested in its stead: run `make test`", 4)
