"""Checks of a release that read files alone. Each returns what it found, or raises `ReleaseError`."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

from tests.external.release.licences import expression_of, is_allowed

NAME = "dedup-llm"
IN_SDIST = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "constraints.txt",
    "dedup/py.typed",
    "dedup/text/filter.py",
    "pyproject.toml",
    "server/dedup_server/app.py",
    "server/dedup_server/demo_model/model.safetensors",
    "server/dedup_server/py.typed",
    "server/dedup_server/web/index.html",
    "setup.py",
)
_HEADING = re.compile(r"^## \[?([^\]\s]+)\]?(?: - (\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)


class ReleaseError(Exception):
    """Reason why a release may not go out; one line says what to do."""


def project(root: Path) -> dict[str, Any]:
    """Return the table `project` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return table


def sections(root: Path) -> dict[str, tuple[str | None, str]]:
    """Return the sections of the changelog: version to date and text, the newest first."""
    text = (root / "CHANGELOG.md").read_text()
    found = list(_HEADING.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return {
        match[1]: (match[2], text[match.end() : end].strip())
        for match, end in zip(found, ends, strict=True)
    }


def check_changelog(root: Path) -> str:
    """Require a dated section of the version, and nothing unreleased above it."""
    version = project(root)["version"]
    found = sections(root)
    if found.get("Unreleased", ("", ""))[1]:
        raise ReleaseError(
            f"Unreleased is not empty: name it after its version, which is not {version}"
        )
    date, text = found.get(version, (None, ""))
    if not text:
        raise ReleaseError(f"there is no entry for {version}")
    if date is None:
        raise ReleaseError(f"the entry for {version} has no date: ## [{version}] - YYYY-MM-DD")
    return f"{version} of {date}, {text.count(chr(10) + '- ')} changes"


def check_versions(root: Path) -> str:
    """Require the version of pyproject.toml wherever a version of this project stands."""
    version = project(root)["version"]
    found = {"README.md, docs": _pinned(root)}
    chart = root / "server" / "deploy" / "chart" / "Chart.yaml"
    if chart.exists():
        for field in ("version", "appVersion"):
            match = re.search(rf'^{field}: "?([^"\s]+)"?$', chart.read_text(), re.MULTILINE)
            found[f"Chart.yaml, {field}"] = {match[1] if match else "none"}
    for place, versions in found.items():
        if versions - {version}:
            other = ", ".join(sorted(versions - {version}))
            raise ReleaseError(f"{place} says {other}, pyproject.toml {version}")
    return version if chart.exists() else f"{version}; there is no chart"


def _pinned(root: Path) -> set[str]:
    """Return the versions with which the documentation installs this project."""
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    pinned = re.compile(rf"{NAME}(?:\[\w+\])?==([\w.]+)")
    return {version for page in pages for version in pinned.findall(page.read_text())}


def check_dist(root: Path, dist: Path) -> str:
    """Require one sdist, a pure wheel and a compiled one, all of the version."""
    version = project(root)["version"]
    sdists, wheels = sorted(dist.glob("*.tar.gz")), sorted(dist.glob("*.whl"))
    found = {path.name: parse_sdist_filename(path.name)[1] for path in sdists}
    found |= {path.name: parse_wheel_filename(path.name)[1] for path in wheels}
    for name, its in found.items():
        if str(its) != version:
            raise ReleaseError(f"{name} is not of version {version}: run make wheels")
    forms = {path.name.endswith("-none-any.whl") for path in wheels}
    if len(sdists) != 1 or forms != {True, False}:
        raise ReleaseError(
            f"an sdist, a pure and a compiled wheel are needed, there is {sorted(found)}"
        )
    return ", ".join(sorted(found))


def check_sdist(names: list[str]) -> str:
    """Require what a build and its reader need, and no results of builds and tests."""
    inside = {name.partition("/")[2] for name in names}
    missing = sorted(set(IN_SDIST) - inside)
    if missing:
        raise ReleaseError(f"the sdist lacks {', '.join(missing)}: add them to MANIFEST.in")
    odd = sorted(name for name in inside if name.endswith((".so", ".pyc")) or "tests/" in name)
    if odd:
        raise ReleaseError(f"the sdist holds {', '.join(odd[:3])}")
    return f"{len(inside)} files"


def check_licences(report: dict[str, Any]) -> str:
    """Require an allowed licence of every dependency.

    Args:
        report: Of `pip install --dry-run --report`, all extras included.
    """
    counts: dict[str, int] = {}
    for one in _dependencies(report):
        metadata = one["metadata"]
        name, expression = metadata["name"], expression_of(metadata)
        if expression is None:
            told = metadata.get("license") or "none"
            raise ReleaseError(f"{name}: its licence is not known (it declares {told[:40]!r})")
        if not is_allowed(expression):
            raise ReleaseError(f"{name}: {expression} is not on the list of allowed licences")
        counts[expression] = counts.get(expression, 0) + 1
    common = sorted(counts, key=lambda name: -counts[name])[:3]
    return f"{sum(counts.values())} packages; {', '.join(f'{counts[n]} {n}' for n in common)}, ..."


def check_pins(root: Path, report: dict[str, Any]) -> str:
    """Require a pin for each direct dependency, and a hash and no withdrawal of each package."""
    pins = {}
    for line in (root / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    table = project(root)
    lists = [table["dependencies"], *table["optional-dependencies"].values()]
    direct = {canonicalize_name(Requirement(line).name) for lines in lists for line in lines}
    missing = sorted(direct - pins.keys() - {NAME})
    if missing:
        raise ReleaseError(f"constraints.txt does not pin {', '.join(missing)}")
    for one in _dependencies(report):
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        pin = pins.get(canonicalize_name(name), version)
        if pin != version.partition("+")[0]:
            raise ReleaseError(f"{name} {version} is installed where constraints.txt has {pin}")
        if one.get("is_yanked"):
            raise ReleaseError(f"{name} {version} was withdrawn by its authors")
        if "sha256" not in one["download_info"].get("archive_info", {}).get("hashes", {}):
            raise ReleaseError(f"{name} {version}: the index has no hash of it")
    return f"{len(direct - {NAME})} direct dependencies pinned; {len(_dependencies(report))} hashes"


def locked(report: dict[str, Any]) -> str:
    """Return the packages of a report as requirements with hashes."""
    lines = []
    for one in _dependencies(report):
        sha = one["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{one['metadata']['name']}=={one['metadata']['version']} --hash=sha256:{sha}")
    return "\n".join([*sorted(lines, key=str.lower), ""])


def check_sbom(path: Path, version: str, num_packages: int) -> str:
    """Require a CycloneDX document of this version that names version and licence of all parts."""
    bom = json.loads(path.read_text())
    if bom.get("bomFormat") != "CycloneDX":
        raise ReleaseError(f"{path.name} is no CycloneDX document")
    if bom["metadata"]["component"].get("version") != version:
        raise ReleaseError(f"{path.name} is not of version {version}")
    parts = bom["components"]
    bare = [one["name"] for one in parts if not one.get("version") or not one.get("licenses")]
    if bare:
        raise ReleaseError(f"{path.name} has no version or licence of {', '.join(bare)}")
    if len(parts) < num_packages:
        raise ReleaseError(f"{path.name} has {len(parts)} of {num_packages} packages")
    return f"CycloneDX {bom['specVersion']}, {len(parts)} packages"


def read_audit(output: str) -> str:
    """Return what pip-audit found, in its JSON.

    A package that it could not look up is one that it skipped: that is no clean result.
    """
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, LookupError):
        return "not checked: no advisory service can be reached"
    faults = [f"{one['name']} {v['id']}" for one in packages for v in one.get("vulns") or ()]
    if faults:
        raise ReleaseError(", ".join(faults))
    skipped = [one for one in packages if "skip_reason" in one and one["name"] != NAME]
    if len(skipped) >= len(packages) - 1:
        return "not checked: no advisory service can be reached"
    if skipped:
        return (
            f"{len(packages) - len(skipped)} packages without known faults, {len(skipped)} unknown"
        )
    return f"{len(packages)} packages without known faults"


def _dependencies(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in report["install"] if one["metadata"]["name"] != NAME]
