"""Build the documentation: `make docs`."""

import __future__

import dataclasses
import re
import sys
from importlib.machinery import FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = (ROOT / "dedup", ROOT / "server" / "dedup_server")


class _Source(SourceFileLoader):
    """Load a module from its source, annotations unevaluated: those of torch's types cannot be evaluated without it."""

    def get_code(self, fullname: str) -> CodeType:
        flags = __future__.annotations.compiler_flag
        return compile(self.get_data(self.path), self.path, "exec", flags, dont_inherit=True)


def _source_only(path: str) -> FileFinder:
    """Find this project's modules by their sources: compiled ones have no signatures to show."""
    if not any(Path(path).is_relative_to(package) for package in PACKAGES):
        raise ImportError
    return FileFinder(path, (_Source, [".py"]))


sys.path_hooks.insert(0, _source_only)
sys.path[:0] = [str(ROOT), str(ROOT / "server")]
sys.path_importer_cache.clear()

project = "dedup"
html_title = "dedup"
copyright = "the dedup authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["monitoring/**", "_build/**"]

myst_heading_anchors = 3  # links to headings, as GitHub has them
myst_links_external_new_tab = True

autodoc_mock_imports = ["torch", "transformers", "vllm"]  # neither is needed to build
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "code"  # `name` in a docstring is code, as in Markdown

html_theme = "furo"
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def _read_docstring(
    app: Any, what: str, name: str, obj: Any, settings: Any, lines: list[str]
) -> None:
    """Read what stands before a docstring's sections as Markdown would be.

    An indented paragraph is code; a paragraph of `name: text` lines is a list of arguments. Options of a configuration that state
    their meaning in their metadata become its arguments.
    """
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        paragraphs[-1].append(line) if line else paragraphs.append([])
    for paragraph in paragraphs[1:]:
        flush = [line for line in paragraph if not line.startswith(" ")]
        if flush and flush[0] in ("Args:", "Returns:", "Raises:", "Yields:"):
            break
        if paragraph and not flush:
            paragraph[:] = ["::", "", *paragraph]
        elif flush and all(re.match(r"[\w*, ]+: ", line) for line in flush):
            paragraph[:] = ["Args:", *("    " + line for line in paragraph)]
    if what == "class" and dataclasses.is_dataclass(obj):
        options = [option for option in dataclasses.fields(obj) if "meaning" in option.metadata]
        paragraphs.append(["Args:"] if options else [])
        for option in options:
            paragraphs[-1].append(
                f"    {option.name}: {option.metadata['meaning']} Must be {option.metadata['range']}."
            )
    lines[:] = [line for paragraph in paragraphs for line in [*paragraph, ""]]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _read_docstring, priority=100)
