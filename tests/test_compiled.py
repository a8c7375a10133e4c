"""The filter's compiled form, which is what runs where there was a C compiler, is the filter."""

import json
import os
import pydoc
import random
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import dedup
from tests.text.test_promises import SENTENCES, SEPARATORS

SOURCES = Path(dedup.__file__).parent
FILTER = """
import json, sys
import dedup.text.filter
from dedup.config import POLICIES, FilterConfig
for text in json.load(sys.stdin):
    for policy in POLICIES:
        one = dedup.text.filter.RepetitionFilter(FilterConfig(policy=policy))
        given = "".join(one.feed(text[at : at + 7]) for at in range(0, len(text), 7)) + one.flush()
        print(json.dumps([given, str(one.removed), str(one.loop), one.metrics()]))
print(dedup.text.filter.__file__.endswith(".py"))
"""


def filtered(texts: list[str], path: Path) -> list[str]:
    run = [sys.executable, "-c", FILTER]
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        run,
        input=json.dumps(texts),
        env=environment,
        cwd=path,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_interpreted_filter_does_what_the_compiled_one_does(tmp_path: Path) -> None:
    choose = random.Random(7)
    texts = [
        "".join(
            choose.choice(SENTENCES) * choose.choice([1, 1, 1, 2, 9]) + choose.choice(SEPARATORS)
            for _ in range(24)
        )
        for _ in range(60)
    ]
    shutil.copytree(
        SOURCES, tmp_path / "dedup", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    )
    *interpreted, is_interpreted = filtered(texts, tmp_path)
    *installed, _ = filtered(texts, SOURCES.parent)
    assert is_interpreted == "True"
    assert installed == interpreted


def test_help_shows_docstrings_and_types() -> None:
    """The compiler leaves them out; `setup.py` puts them back."""
    shown = pydoc.render_doc(dedup.RepetitionFilter, renderer=pydoc.plaintext)
    assert "A filter of one text" in shown
    assert "feed(self, delta: str) -> str" in shown
    assert "Feed a delta; return the text that can be released now." in shown
    assert "Characters fed that were neither released nor removed yet." in shown
    shown = pydoc.render_doc(dedup.repetition_metrics, renderer=pydoc.plaintext)
    assert "repetition_metrics(text: str) -> dict[str, float]" in shown
    assert "Return the metrics" in shown


def test_without_a_compiler_the_wheel_is_for_any_platform(tmp_path: Path) -> None:
    """It used to take two minutes and name a platform, with nothing compiled in it."""
    root = SOURCES.parent
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    for folder in ("dedup", "server"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path)
    stale = tmp_path / "build" / "lib" / "dedup" / "of_an_earlier_build.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        "dist",
        ".",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "CC": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    names = ZipFile(wheel).namelist()
    assert f"dedup/{stale.name}" not in names
    assert {"dedup/text/filter.py", "dedup_server/app.py", "dedup_server/web/index.html"} <= set(
        names
    )
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {
        "dedup",
        "dedup_server",
    }
    assert not any(name.endswith((".so", ".pyd")) for name in names)
