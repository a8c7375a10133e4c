"""Compiles what every piece of a stream goes through with mypyc: the same code at two to three times the speed.

Where there is no C compiler, a wheel without compiled parts is built, and says so: in its tag, in `dedup --version`, when it serves.
What a compiler cannot compile is a fault.
"""

import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools._distutils.ccompiler import new_compiler
from setuptools._distutils.errors import CompileError
from setuptools._distutils.sysconfig import customize_compiler

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
SERVER = [
    "channel",
    "completion",
    "http/chunked",
    "http/client",
    "http/connection",
    "http/deadline",
    "http/parser",
    "wire/chat",
    "wire/sse",
    "engines/upstream/engine",
]
COMPILED = ["dedup/lenient_json.py"]
COMPILED += [f"dedup/text/{name}.py" for name in TEXT] + [
    f"server/dedup_server/{name}.py" for name in SERVER
]

PROBE = "#include <Python.h>\nint probe(void) { return (int) Py_GetVersion()[0]; }\n"


def compiler_fault() -> str:
    """Return why nothing can be compiled here; empty if something can."""
    compiler = new_compiler()
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text(PROBE)
        try:
            compiler.compile([str(source)], folder, include_dirs=[sysconfig.get_paths()["include"]])
        except CompileError as fault:
            return str(fault)
    return ""


extensions = []
if fault := compiler_fault():
    print(
        f"NOT COMPILED: {fault}. What is built is plain Python, for any platform, and two to three times slower.",
        file=sys.stderr,
    )
else:
    from mypyc.build import mypycify

    extensions = mypycify(COMPILED, group_name="dedup.compiled")
setup(ext_modules=extensions)
