"""Compiles what every piece of a stream goes through with mypyc: the same code at two to three times the speed.

Where there is no C compiler, a wheel without compiled parts is built, and says so: in its tag, in `dedup --version`, when it serves.
What a compiler cannot compile is a fault.
"""

import ast
import re
import shutil
import string
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
    "novelty",
    "outcome",
    "reading",
    "scan",
    "steps",
    "volatile",
    "waiting",
    "wording",
]
SERVER = [
    "auth",
    "completion",
    "handlers",
    "limits",
    "log_line",
    "telemetry",
    "http/asgi",
    "http/client",
    "http/connection",
    "http/cycle",
    "http/deadline",
    "http/event",
    "http/parser",
    "http/protocol",
    "wire/base",
    "wire/chat",
    "wire/chat_body",
    "wire/messages",
    "wire/reading",
    "wire/responses",
    "wire/responses_reader",
    "wire/sse",
    "engines/upstream/engine",
    "engines/upstream/server",
    "engines/upstream/streaming",
]
COMPILED = ["dedup/lenient_json.py"]
COMPILED += [f"dedup/text/{name}.py" for name in TEXT]
COMPILED += [f"dedup/answer/{name}.py" for name in ANSWER]
COMPILED += [f"dedup/answer/agent_loops/{name}.py" for name in AGENT_LOOPS]
COMPILED += [f"server/dedup_server/{name}.py" for name in SERVER]

# Places of docstrings in the C code that mypyc generates: of functions, classes and properties.
STRING = r'PyDoc_STR\("(?:[^"\\]|\\.)*'
OF_FUNCTION = re.compile(rf'(\(PyCFunction\)CPyPy_(\w+),\s+[A-Z_| ]+, {STRING})"')
OF_CLASS = re.compile(rf'(\.tp_getset = (\w+)_getseters,\n(?:.*\n){{1,9}}?\s*\.tp_doc = {STRING})"')
PLAIN = (string.ascii_letters + string.digits + " _.,:;()").encode()
OF_PROPERTY = re.compile(r"(\(getter\)(\w+),\s+(?:NULL|\(setter\)\w+), )NULL(, NULL)")

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


def docstrings(path: str) -> dict[str, str]:
    """Return the docstrings of a module, with annotated signatures, by their owners' names in C."""
    found: dict[str, str] = {}

    def read(node: ast.Module | ast.ClassDef, owner: str) -> None:
        for child in node.body:
            if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            name, text = f"{owner}___{child.name}", ast.get_docstring(child)
            if isinstance(child, ast.ClassDef):
                read(child, name)
            elif any(ast.unparse(one) == "property" for one in child.decorator_list):
                name = f"{owner}_get_{child.name}"
            elif text:
                returns = f" -> {ast.unparse(child.returns)}" if child.returns else ""
                text = f"{child.name}({ast.unparse(child.args)}){returns}\n\n{text}"
            if text:
                found[name] = text

    read(ast.parse(Path(path).read_text("utf-8")), "")
    # The name of the module in C is the shortest end of its path that no other has.
    parts = Path(path).with_suffix("").parts
    ends = ["___".join(parts[at:]) for at in range(len(parts))]
    return {end + name: text for end in ends for name, text in found.items()}


def escaped(byte: int) -> str:
    """Return a byte as it stands in a C string."""
    return chr(byte) if byte in PLAIN else f"\\{byte:03o}"


def add_docstrings(source: Path, known: dict[str, str]) -> None:
    """Put into generated C code the docstrings, which mypyc leaves out."""

    def with_docstring(match: re.Match[str]) -> str:
        text = "".join(map(escaped, known.get(match[2], "").encode()))
        if match.re is OF_PROPERTY:
            return f'{match[1]}"{text}"{match[3]}' if text else match[0]
        return f'{match[1]}{text}"'

    code = source.read_text("utf-8")
    for place in (OF_FUNCTION, OF_CLASS, OF_PROPERTY):
        code = place.sub(with_docstring, code)
    source.write_text(code, "utf-8")


class CleanBuild(build):
    """A build without results of an earlier one, which would get into the wheel."""

    def run(self) -> None:
        if Path(self.build_lib).parent == Path(self.build_base):
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


extensions = []
if {"egg_info", "dist_info"} & set(sys.argv):
    pass  # pip asks what the package needs and is, twice, before it has it built
elif fault := compiler_fault():
    print(
        f"NOT COMPILED: {fault}. What is built is plain Python, for any platform, and two to three times slower.",
        file=sys.stderr,
    )
else:
    from mypyc.build import mypycify

    extensions = mypycify(COMPILED, group_name="dedup.compiled")
    known = {name: text for path in COMPILED for name, text in docstrings(path).items()}
    for source in {source for one in extensions for source in one.sources if "__native" in source}:
        add_docstrings(Path(source), known)
setup(ext_modules=extensions, cmdclass={"build": CleanBuild})
