"""Tests that each check of a release fails where it should, with one line that says why."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.external.release import checks
from tests.external.release.checks import ReleaseError
from tests.external.release.licences import expression_of, is_allowed

ROOT = Path(__file__).parent.parent
CHANGELOG = "# Changelog\n\n## Unreleased\n\n## [1.2.0] - 2026-01-02\n\n### Added\n\n- A thing.\n"
PYPROJECT = """[project]
name = "dedup-llm"
version = "1.2.0"
dependencies = ["click>=8"]
[project.optional-dependencies]
server = ["dedup-llm[server]", "uvicorn>=1"]
"""


def package(name: str = "click", version: str = "8.5", **changes: Any) -> dict[str, Any]:
    metadata = {"name": name, "version": version, "license_expression": "MIT"}
    archive = {"hashes": {"sha256": "ab"}}
    return {"metadata": metadata, "download_info": {"archive_info": archive}, **changes}


def report(*packages: dict[str, Any]) -> dict[str, Any]:
    return {"install": [package("dedup-llm", "1.2.0"), *packages]}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in {
        "CHANGELOG.md": CHANGELOG,
        "pyproject.toml": PYPROJECT,
        "README.md": 'pip install "dedup-llm[server]==1.2.0"\n',
        "constraints.txt": "# Tested.\nclick==8.5\nuvicorn==1.0\n",
        "docs/index.md": "\n",
        "server/deploy/chart/Chart.yaml": 'version: 1.2.0\nappVersion: "1.2.0"\n',
        "dist/dedup_llm-1.2.0.tar.gz": "",
        "dist/dedup_llm-1.2.0-py3-none-any.whl": "",
        "dist/dedup_llm-1.2.0-cp311-cp311-manylinux_2_17_x86_64.whl": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_tree_that_is_right_passes(tree: Path) -> None:
    assert checks.check_versions(tree) == "1.2.0"
    assert checks.check_changelog(tree) == "1.2.0 of 2026-01-02, 1 changes"
    assert "manylinux" in checks.check_dist(tree, tree / "dist")
    assert checks.check_sdist([f"x/{name}" for name in checks.IN_SDIST])
    assert checks.check_pins(tree, report(package())).startswith("2 direct")
    assert checks.check_licences(report(package())) == "1 packages; 1 MIT, ..."
    assert checks.locked(report(package())) == "click==8.5 --hash=sha256:ab\n"


@pytest.mark.parametrize(
    ("name", "before", "after", "told"),
    [
        ("CHANGELOG.md", "1.2.0", "1.1.0", "no entry for 1.2.0"),
        ("CHANGELOG.md", " - 2026-01-02", "", "has no date"),
        ("CHANGELOG.md", "Unreleased\n", "Unreleased\n\n- More.\n", "Unreleased is not empty"),
        ("README.md", "1.2.0", "1.1.0", "README.md, docs says 1.1.0, pyproject.toml 1.2.0"),
        ("server/deploy/chart/Chart.yaml", '"1.2.0"', "1.3.0", "appVersion says 1.3.0"),
        ("server/deploy/chart/Chart.yaml", "version: 1.2.0", "v: 1", "version says none"),
        ("constraints.txt", "uvicorn==1.0\n", "", "does not pin uvicorn"),
        ("constraints.txt", "click==8.5", "click==8.4", "click 8.5 is installed where"),
        ("pyproject.toml", '"1.2.0"', '"1.3.0"', "1.3.0"),
    ],
)
def test_what_is_wrong_is_named(tree: Path, name: str, before: str, after: str, told: str) -> None:
    path = tree / name
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(ReleaseError, match=told.replace("[", r"\[")):
        checks.check_versions(tree)
        checks.check_changelog(tree)
        checks.check_dist(tree, tree / "dist")
        checks.check_pins(tree, report(package()))


@pytest.mark.parametrize("missing", ["*.tar.gz", "*-any.whl", "*manylinux*"])
def test_a_missing_file_of_a_release_is_a_fault(tree: Path, missing: str) -> None:
    next((tree / "dist").glob(missing)).unlink()
    with pytest.raises(ReleaseError, match="an sdist, a pure and a compiled wheel are needed"):
        checks.check_dist(tree, tree / "dist")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"is_yanked": True}, "withdrawn"),
        ({"download_info": {"archive_info": {}}}, "no hash"),
    ],
)
def test_a_package_that_may_not_be_installed_is_a_fault(
    tree: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ReleaseError, match=told):
        checks.check_pins(tree, report(package(**changes)))


def test_an_incomplete_sdist_is_a_fault() -> None:
    names = [f"x/{name}" for name in checks.IN_SDIST]
    with pytest.raises(ReleaseError, match=r"lacks SECURITY\.md"):
        checks.check_sdist([name for name in names if "SECURITY" not in name])
    with pytest.raises(ReleaseError, match=r"holds dedup/a\.so"):
        checks.check_sdist([*names, "x/dedup/a.so"])


@pytest.mark.parametrize(
    ("metadata", "expression", "allowed"),
    [
        ({"license_expression": "MPL-2.0 AND (Apache-2.0 OR MIT)"}, None, True),
        ({"license_expression": "MPL-1.1 OR GPL-2.0-or-later"}, None, True),
        ({"license_expression": "MIT AND GPL-3.0-only"}, None, False),
        ({"license_expression": "Apache-2.0 WITH LLVM-exception"}, None, True),
        ({"license_expression": "Apache-2.0 WITH Classpath-exception-2.0"}, None, False),
        ({"license_expression": "AGPL-3.0-only"}, None, False),
        ({"license": "Apache 2.0 License"}, "Apache-2.0", True),
        ({"license": "All of it.", "classifier": ["License :: OSI Approved :: BSD License"]},
         "BSD-3-Clause", True),
    ],
)  # fmt: skip
def test_licences(metadata: dict[str, Any], expression: str | None, allowed: bool) -> None:
    found = expression_of(metadata)
    assert found == (expression or metadata["license_expression"])
    assert is_allowed(found) is allowed


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "click: its licence is not known"),
        ({"license": "Ask me"}, "it declares 'Ask me'"),
        ({"classifier": ["License :: OSI Approved"]}, "not known"),
        ({"license_expression": "GPL-3.0-only"}, "GPL-3.0-only is not on the list"),
    ],
)
def test_a_licence_that_is_unknown_or_not_allowed_is_a_fault(
    metadata: dict[str, Any], told: str
) -> None:
    one = package()
    one["metadata"] = {"name": "click", "version": "8.5", **metadata}
    with pytest.raises(ReleaseError, match=told):
        checks.check_licences(report(one))


def test_an_sbom_names_every_part(tmp_path: Path) -> None:
    path = tmp_path / "sbom.cdx.json"

    def write(version: str, **part: Any) -> None:
        licences = [{"license": {"id": "MIT"}}]
        parts = [{"name": "click", "version": "8.5", "licenses": licences, **part}]
        told = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": parts}
        path.write_text(json.dumps({**told, "metadata": {"component": {"version": version}}}))

    write("1.2.0")
    assert checks.check_sbom(path, "1.2.0", 1) == "CycloneDX 1.6, 1 packages"
    for version, num_packages, part, told in (
        ("1.1.0", 1, {}, "not of version"),
        ("1.2.0", 2, {}, "1 of 2"),
        ("1.2.0", 1, {"licenses": []}, "no version or licence of click"),
    ):
        write(version, **part)
        with pytest.raises(ReleaseError, match=told):
            checks.check_sbom(path, "1.2.0", num_packages)


def test_an_audit_that_looked_nothing_up_is_not_clean() -> None:
    skipped = {"name": "click", "skip_reason": "not found"}
    found = {"name": "click", "version": "1", "vulns": []}
    bad = {"name": "h11", "version": "1", "vulns": [{"id": "PYSEC-1"}]}

    def read(*packages: dict[str, Any]) -> str:
        return checks.read_audit(json.dumps({"dependencies": [*packages]}))

    assert checks.read_audit("Traceback").startswith("not checked")
    assert read(skipped, {**skipped, "name": "h11"}).startswith("not checked")
    assert read(found, found) == "2 packages without known faults"
    assert read(found, found, found, skipped) == "3 packages without known faults, 1 unknown"
    with pytest.raises(ReleaseError, match="h11 PYSEC-1"):
        read(found, bad)


def test_this_tree_has_one_version_and_a_pin_for_each_dependency() -> None:
    checks.check_versions(ROOT)
    checks.check_pins(ROOT, {"install": []})


def test_the_tests_that_security_names_exist() -> None:
    named = re.findall(r"`([\w/]*\.py)?(?:::(test_\w+))?`", (ROOT / "SECURITY.md").read_text())
    path = ""
    num_named = 0
    for file, function in named:
        if not (file or function):
            continue
        path = file or path
        found = ROOT / "tests" / path
        assert found.exists(), path
        assert f"def {function}(" in found.read_text() or not function, f"{path}::{function}"
        num_named += 1
    assert num_named > 30
