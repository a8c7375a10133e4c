"""The tests run what is installed: the compiled form of a module, where there is one; with TEST_FORM=interpreted its source."""

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (ROOT / "dedup", ROOT / "server" / "dedup_server")


def _source_only(path: str) -> FileFinder:
    if not any(Path(path).is_relative_to(room) for room in ROOMS):
        raise ImportError
    return FileFinder(path, (SourceFileLoader, [".py"]))


INTERPRETED = os.environ.get("TEST_FORM") == "interpreted"
if INTERPRETED:
    assert not any(name.partition(".")[0] in ("dedup", "dedup_server") for name in sys.modules)
    sys.path_hooks.insert(0, _source_only)
    sys.path_importer_cache.clear()


def pytest_sessionstart() -> None:
    suffix = EXTENSION_SUFFIXES[0]
    compiled = ROOT / "dedup" / f"compiled__mypyc{suffix}"
    for source in [] if INTERPRETED else [path for room in ROOMS for path in room.glob("**/*.py")]:
        is_compiled = source.with_name(source.stem + suffix).exists()
        if is_compiled and compiled.exists() and compiled.stat().st_mtime < source.stat().st_mtime:
            pytest.exit(
                f"{source.name} is newer than its compiled form, which would be tested in its stead: run `make test`",
                4,
            )


def pytest_report_header() -> str:
    from dedup.version import build_form

    return f"dedup: {build_form()}"
