"""The tests run what is installed: the compiled form of a module, where there is one."""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import dedup


def pytest_sessionstart() -> None:
    root, suffix = Path(dedup.__file__).parent.parent, EXTENSION_SUFFIXES[0]
    compiled = root / "dedup" / f"compiled__mypyc{suffix}"
    for source in [*root.glob("dedup/**/*.py"), *root.glob("server/**/*.py")]:
        is_compiled = source.with_name(source.stem + suffix).exists()
        if is_compiled and compiled.exists() and compiled.stat().st_mtime < source.stat().st_mtime:
            pytest.exit(f"{source.name} is newer than its compiled form, which would be tested in its stead: run `make test`", 4)
