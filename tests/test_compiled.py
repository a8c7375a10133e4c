"""The filter's compiled form, which is what runs where there was a C compiler, is the filter."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

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
    done = subprocess.run(run, input=json.dumps(texts), env=environment, cwd=path, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_interpreted_filter_does_what_the_compiled_one_does(tmp_path: Path) -> None:
    choose = random.Random(7)
    texts = [
        "".join(choose.choice(SENTENCES) * choose.choice([1, 1, 1, 2, 9]) + choose.choice(SEPARATORS) for _ in range(24))
        for _ in range(60)
    ]
    shutil.copytree(SOURCES, tmp_path / "dedup", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    *interpreted, is_interpreted = filtered(texts, tmp_path)
    *installed, _ = filtered(texts, SOURCES.parent)
    assert is_interpreted == "True"
    assert installed == interpreted
