"""Check a release: `make release-check`. It needs the wheels of `make wheels`.

Prints a table and exits with 1 if a check fails. Writes the sdist, `sbom.cdx.json` (of the
installed extra `server`) and `requirements.txt` (all extras, with hashes) into dist/.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.external.release import checks, fresh
from tests.external.release.checks import ReleaseError, project

ROOT = Path(__file__).parents[3]
PIP = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")


def run(*command: str | Path, fails: str = "", **options: Any) -> str:
    """Return the output of a command. Raise `ReleaseError` if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        told = " ".join(lines[-2:])
        raise ReleaseError(f"{fails or Path(str(command[0])).name}: {told}")
    return done.stdout


class Release:
    """The files in dist/, and the checks of them in the order in which they are made."""

    def __init__(self, dist: Path, python: str, folder: Path) -> None:
        self.dist = dist
        self.version: str = project(ROOT)["version"]
        self._python = python  # of the development environment
        self._folder = folder
        self._report: dict[str, Any] = {"install": []}
        self._fresh: fresh.Installed | None = None

    def checks(self) -> list[tuple[str, Callable[[], str]]]:
        return [
            ("one version", lambda: checks.check_versions(ROOT)),
            ("changelog", lambda: checks.check_changelog(ROOT)),
            ("sdist", self.sdist),
            ("wheels", lambda: checks.check_dist(ROOT, self.dist)),
            ("metadata", self.metadata),
            ("wheel from sdist", self.wheel_from_sdist),
            ("pins and hashes", self.pins),
            ("licences", lambda: checks.check_licences(self._resolved())),
            ("fresh machine", self.fresh_machine),
            ("SBOM", self.sbom),
            ("known faults", self.audit),
            ("docs", self.docs),
        ]

    def sdist(self) -> str:
        for old in self.dist.glob("*.tar.gz"):
            old.unlink()
        tree = self._folder / "tree"
        left_out = shutil.ignore_patterns(
            ".*", "*.so", "__pycache__", "build", "dist", "*.egg-info"
        )
        shutil.copytree(ROOT, tree, ignore=left_out)
        run(sys.executable, "-m", "build", "--sdist", "--outdir", self.dist, tree, fails="build")
        with tarfile.open(self._sdist()) as archive:
            names = [member.name for member in archive if member.isfile()]
        return checks.check_sdist(names)

    def metadata(self) -> str:
        files = [path for path in self.dist.iterdir() if path.suffix in (".whl", ".gz")]
        run(sys.executable, "-m", "twine", "check", "--strict", *files, fails="twine")
        return f"{len(files)} files, the README renders"

    def wheel_from_sdist(self) -> str:
        into = self._folder / "from-sdist"
        pure = {"env": fresh.without_compiler()}
        run(*PIP, "wheel", "--no-deps", "-w", into, self._sdist(), fails="pip wheel", **pure)
        (built,) = into.iterdir()
        names, expected = _names(built), _names(self._pure_wheel())
        if names != expected:
            other = ", ".join(sorted(names ^ expected)[:3])
            raise ReleaseError(f"the wheel from the sdist and the one in dist/ differ in {other}")
        return f"{len(names)} files, as in {self._pure_wheel().name}"

    def pins(self) -> str:
        found = checks.check_pins(ROOT, self._resolved())
        (self.dist / "requirements.txt").write_text(checks.locked(self._resolved()))
        return found

    def fresh_machine(self) -> str:
        self._fresh = fresh.install(self._pure_wheel(), self._folder / "fresh")
        return fresh.serve(self._fresh)

    def sbom(self) -> str:
        if self._fresh is None:
            raise ReleaseError("there is no fresh installation to describe")
        path = self.dist / "sbom.cdx.json"
        options = ("--pyproject", ROOT / "pyproject.toml", "--mc-type", "application")
        command = (sys.executable, "-m", "cyclonedx_py", "environment", *options, "-o", path)
        run(*command, self._fresh.python, fails="cyclonedx")
        num_packages = len(list(self._fresh.packages.glob("*.dist-info"))) - 1  # less this one
        return checks.check_sbom(path, self.version, num_packages)

    def audit(self) -> str:
        if self._fresh is None:
            raise ReleaseError("there is no fresh installation to audit")
        command = (sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "-f", "json")
        done = subprocess.run(
            [*command, "--path", str(self._fresh.packages)],
            capture_output=True,
            text=True,
            check=False,
        )
        return checks.read_audit(done.stdout)

    def docs(self) -> str:
        into = self._folder / "docs"
        run(self._python, "-m", "sphinx", "-W", "-q", ROOT / "docs", into, fails="sphinx")
        return f"{len(list(into.rglob('*.html')))} pages"

    def _resolved(self) -> dict[str, Any]:
        """Return pip's report of what an installation with all extras brings."""
        if not self._report["install"]:
            extras = ",".join(set(project(ROOT)["optional-dependencies"]) - {"dev", "docs"})
            path = self._folder / "report.json"
            options = ("--dry-run", "--ignore-installed", "--report", path)
            constraints = ("-c", ROOT / "constraints.txt")
            run(*PIP, "install", *options, *constraints, f"{self._pure_wheel()}[{extras}]")
            self._report = json.loads(path.read_text())
        return self._report

    def _sdist(self) -> Path:
        return next(self.dist.glob("*.tar.gz"))

    def _pure_wheel(self) -> Path:
        for wheel in self.dist.glob("*-none-any.whl"):
            return wheel
        raise ReleaseError("dist/ has no wheel: run make wheels")


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--python", default=ROOT / ".venv/bin/python", help="builds the docs")
    asked = parser.parse_args()
    asked.dist.mkdir(exist_ok=True)
    num_failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, check in Release(asked.dist.resolve(), asked.python, Path(folder)).checks():
            try:
                verdict, told = "ok", check()
            except ReleaseError as fault:
                verdict, told = "FAIL", str(fault)
                num_failed += 1
            print(f"{name:18}{verdict:6}{told}", flush=True)
    sys.exit(f"{num_failed} of the checks failed" if num_failed else 0)


if __name__ == "__main__":
    main()
