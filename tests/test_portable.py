"""Classes whose pickles load without this library."""

import json
import pickle
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest

from dedup.config import DecodingConfig
from dedup.logits.request import Request
from dedup.portable import dumps, load


def test_a_class_works_where_the_library_is_missing() -> None:
    code = """
import importlib.util, pickle, sys
sys.path.append(sys.argv[1])
assert importlib.util.find_spec("dedup") is None
import numpy
Request = pickle.loads(sys.stdin.buffer.read())
Config = sys.modules[Request.__module__].DecodingConfig
logits = numpy.zeros(5)
Request(Config(no_repeat_ngram_size=2), [1, 2, 1]).apply([], logits)
print(logits.tolist())
"""
    packages = np.__file__.rsplit("/numpy/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, packages],
        input=dumps(Request),
        capture_output=True,
        check=False,
    )
    assert done.stdout.decode().strip() == "[0.0, 0.0, -inf, 0.0, 0.0]", done.stderr.decode()


def test_a_copy_stands_beside_the_library() -> None:
    loaded = pickle.loads(dumps(Request))
    assert loaded is not Request
    assert loaded is pickle.loads(dumps(Request))
    config = sys.modules[loaded.__module__].DecodingConfig
    assert config is not DecodingConfig
    with pytest.raises(ValueError, match="no_repeat_ngram_size must be an integer"):
        config(no_repeat_ngram_size=-1)


def test_a_failed_load_leaves_no_module() -> None:
    packed = zlib.compress(json.dumps({"_broken.module": "raise OSError"}).encode())
    arguments: tuple[Any, ...] = ("_broken.module", "Name", packed)
    for _ in range(2):
        with pytest.raises(OSError, match=r"^$"):
            load(*arguments)
    assert "_broken.module" not in sys.modules
