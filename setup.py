"""Compiles what every piece of a stream goes through with mypyc: the same code at twice the speed. Where that cannot be done, for want
of a C compiler or with packages of other versions, it is installed as it is."""

import sys

from mypyc.build import mypycify
from setuptools import setup

TEXT = [
    "context",
    "filter",
    "follower",
    "form",
    "metrics",
    "numerals",
    "pieces",
    "prompt",
    "prompt_words",
    "runs",
    "seen",
    "segmenter",
    "sentences",
    "words",
    "loops/cycle",
    "loops/detector",
    "loops/evidence",
    "loops/flood",
    "loops/history",
    "loops/pairs",
    "loops/tokens",
]
SERVER = ["sse", "chunked", "channel", "answers/chat", "completion", "engines/http_client", "engines/upstream"]
COMPILED = [f"dedup/text/{name}.py" for name in TEXT] + [f"server/dedup_server/{name}.py" for name in SERVER]

try:
    extensions = mypycify(COMPILED, group_name="dedup.compiled")
except (Exception, SystemExit) as failure:
    print(f"not compiled: mypyc ended with {failure!r}", file=sys.stderr)
    extensions = []
for extension in extensions:
    extension.optional = True
setup(ext_modules=extensions)
