"""Parts that every integration's tests share: which capability a test shows, and the snippets of the integration's page.

A test says with `@pytest.mark.shows("streamed", "loop cut")` what it shows. Once the tests of a folder are done, that is written, with the
versions they ran with, beside the folder's virtual environment; `matrix.py` makes the table in docs/integrations/index.md of it.
"""

import json
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.docs_snippets import ROOT, snippets_in
from tests.external.integrations.matrix import CAPABILITIES, RESULTS

_shown: dict[str, dict[str, bool]] = {}  # by integration and capability: whether all tests passed


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "shows(*capabilities): what a passing test shows")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    report = yield
    if report.when == "call" or report.outcome != "passed":
        shown = _shown.setdefault(item.path.parent.name, {})
        for marker in item.iter_markers("shows"):
            for capability in marker.args:
                assert capability in CAPABILITIES, f"{item.nodeid} shows {capability!r}"
                shown[capability] = shown.get(capability, True) and report.outcome == "passed"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.option.keyword or session.config.option.markexpr:
        return  # not all of them ran
    for name, shown in _shown.items():
        requirements = Path(__file__).parent / name / "requirements.txt"
        # The first paragraph names what is integrated; what its tests need comes behind.
        integrated = requirements.read_text("utf-8").split("\n\n")[0]
        versions = {
            package: version(package) for package in re.findall(r"^([\w.-]+)", integrated, re.M)
        }
        passed = [capability for capability in CAPABILITIES if shown.get(capability)]
        RESULTS.mkdir(exist_ok=True)
        result = {"versions": versions, "shows": passed}
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


@pytest.fixture(scope="session")
def blocks() -> Callable[[str, str], list[str]]:
    """Return a function: the blocks of a language on an integration's page, in order."""

    def find(name: str, language: str) -> list[str]:
        page = ROOT / "docs" / "integrations" / f"{name}.md"
        found = snippets_in(page.name, page.read_text("utf-8"))
        return [snippet.text for snippet in found if snippet.language == language]

    return find
