"""Compiles what every piece of a stream goes through with mypyc: the same code at two to three times the speed.

Where there is no C compiler, a wheel without compiled parts is built, and says so: in its tag, in `dedup --version`, when it serves.
What a compiler cannot compile is a fault.
"""

import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools._distutils.ccompiler import new_compiler
from setuptools._distutils.errors import CompileError
from setuptools._distutils.sysconfig import customize_compiler
from setuptools.command.build import build

TEXT = [
    "context",
    "editor",
    "filter",
    "follower",
    "form",
    "metrics",
    "numerals",
    "pieces",
    "prompt",
    "prompt_words",
    "repeats",
    "runs",
    "seen",
    "segmenter",
    "sentences",
    "words",
    "loops/buffer",
    "loops/cycle",
    "loops/detector",
    "loops/events",
    "loops/evidence",
    "loops/flood",
    "loops/history",
    "loops/measure",
    "loops/pairs",
    "loops/passage",
    "loops/scanner",
    "loops/tokens",
]
ANSWER = ["answer", "channel", "frame", "report", "usage"]
AGENT_LOOPS = [
    "arguments",
    "likeness",
    "outcome",
    "reading",
    "scan",
    "steps",
    "volatile",
    "wording",
]
SERVER = [
    "completion",
    "http/chunked",
    "http/client",
    "http/connection",
    "http/deadline",
    "http/parser",
    "wire/base",
    "wire/chat",
    "wire/chat_body",
    "wire/messages",
    "wire/responses",
    "wire/responses_reader",
    "wire/sse",
    "engines/upstream/engine",
]
COMPILED = ["dedup/lenient_json.py"]
COMPILED += [f"dedup/text/{name}.py" for name in TEXT]
COMPILED += [f"dedup/answer/{name}.py" for name in ANSWER]
COMPILED += [f"dedup/answer/agent_loops/{name}.py" for name in AGENT_LOOPS]
COMPILED += [f"server/dedup_server/{name}.py" for name in SERVER]

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


class CleanBuild(build):
    """A build without results of an earlier one, which would get into the wheel."""

    def run(self) -> None:
        if Path(self.build_lib).parent == Path(self.build_base):
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


extensions = []
if fault := compiler_fault():
    print(
        f"NOT COMPILED: {fault}. What is built is plain Python, for any platform, and two to three times slower.",
        file=sys.stderr,
    )
else:
    from mypyc.build import mypycify

    extensions = mypycify(COMPILED, group_name="dedup.compiled")
setup(ext_modules=extensions, cmdclass={"build": CleanBuild})
