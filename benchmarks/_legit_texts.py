"""Iterate over legitimate texts: files of installed and fetched packages, and public-domain corpora.

    .venv-live/bin/python benchmarks/_legit_texts.py --fetch DIR                      # what legit_packages.txt names, minutes
    .venv-live/bin/python benchmarks/_legit_texts.py DIR --installed --corpus CORPUS  # count the texts by extension

    for source, extension, path, text in legit_texts(package_roots(Path("DIR"))): ...

No model generated these texts, so an alarm is a false one, unless a file is a loop by itself (a table of zeros). A text is the
first 6,000 characters of a UTF-8 file; short files and copies are left out. A source is the package of a file: texts of one
source are alike, so split and judge by source.

`--fetch` uses each registry's own client (npm, and apt on Debian, must be there), builds and installs nothing, and skips what an
earlier run has fetched. The packages have many licenses: measure with their texts, do not copy them.
"""

import argparse
import collections
import hashlib
import io
import json
import lzma
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

from tqdm import tqdm

HERE = Path(__file__).parent
MANIFEST = HERE / "legit_packages.txt"
HEAD = 6_000  # characters of a file
SHORTEST = 400
CAP = 2_000_000  # characters of each extension and source
MAX_BYTES = 64_000  # kept of a fetched file: enough for HEAD characters
MAX_FILES = 1_500  # kept of each extension of a fetched package
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")

KINDS = {
    "documentation": "md rst txt tex adoc ipynb srt vtt bib",
    "code": "py pyx pyi c h cc cpp hpp java kt scala swift m go rs js mjs ts tsx jsx vue css scss less sql sh bash r jl php rb"
    " lua pl pm tcl vim el erl hs ml f90 f cmake zig sol proto cs asm s diff patch",
    "data": "json yaml yml toml csv tsv xml html htm svg po pot ini cfg conf properties log xsd wsdl plist geojson xlf",
}
KIND_OF = {
    f".{extension}": kind for kind, extensions in KINDS.items() for extension in extensions.split()
}


class LegitText(NamedTuple):
    source: str
    extension: str  # in lower case, with its dot
    path: str
    text: str

    @property
    def kind(self) -> str:
        return KIND_OF[self.extension]


Roots = Iterable[tuple[str, Path]]


def package_roots(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (source, path) for each file or folder directly in a folder; a package's wheel and sdist are one source."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and not path.name.endswith((".dist-info", ".egg-info")):
            yield re.sub(r"^(wheel|sdist|npm|deb)-", "", path.name), path


def installed_roots() -> Iterator[tuple[str, Path]]:
    """Yield (source, path) for this interpreter's packages and standard library, /usr/share and /usr/include."""
    for label, place in (
        ("", sysconfig.get_path("purelib")),
        ("stdlib", sysconfig.get_path("stdlib")),
        ("share", "/usr/share"),
        ("include", "/usr/include"),
    ):
        if place and Path(place).is_dir():
            for name, path in package_roots(Path(place)):
                if name not in ("site-packages", "__pycache__"):
                    yield f"{label}/{name}" if label else name, path


def _files(path: Path) -> Iterator[Path]:
    """Yield the files with known extensions, in an order that spreads over folders and is the same on every run."""
    found = (
        [path]
        if path.is_file()
        else [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    )
    known = [file for file in found if file.suffix.lower() in KIND_OF and not file.is_symlink()]
    return iter(
        sorted(
            known,
            key=lambda file: hashlib.sha1(
                str(file.relative_to(path)).encode(errors="replace")
            ).digest(),
        )
    )


def legit_texts(roots: Roots, cap: int = CAP) -> Iterator[LegitText]:
    """Yield the texts of each root once.

    Args:
        roots: pairs of source and path; a path is a file or a folder.
        cap: characters taken of each extension and source.
    """
    seen: set[bytes] = set()
    taken: collections.Counter[tuple[str, str]] = collections.Counter()
    for source, root in roots:
        for file in _files(root):
            extension = file.suffix.lower()
            if taken[source, extension] >= cap:
                continue
            try:
                with file.open(encoding="utf-8") as lines:
                    text = lines.read(HEAD)
            except (OSError, UnicodeDecodeError):
                continue
            digest = hashlib.sha1(text.encode(errors="replace")).digest()
            if len(text) < SHORTEST or digest in seen:
                continue
            seen.add(digest)
            taken[source, extension] += len(text)
            yield LegitText(source, extension, str(file), text)


def corpus_texts(folder: Path) -> Iterator[LegitText]:
    """Yield all pieces of HEAD characters of the .txt files in a folder, and the `text` of each row of its .jsonl files."""
    for file in sorted(folder.rglob("*")):
        source = f"corpus/{file.stem}"
        if file.suffix == ".txt":
            whole = file.read_text(encoding="utf-8")
            texts = [whole[start : start + HEAD] for start in range(0, len(whole), HEAD)]
        elif file.suffix == ".jsonl":
            texts = [
                json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()
            ]
        else:
            continue
        for number, text in enumerate(texts):
            if len(text) >= SHORTEST:
                yield LegitText(source, ".txt", f"{file}#{number}", text)


def _keep(
    folder: Path, name: str, open_member: Callable[[], IO[bytes]], kept: collections.Counter[str]
) -> None:
    """Write the head of an archive's member if its extension is known; unpack it if it is an archive."""
    if name.endswith(ARCHIVES):
        _unpack(folder / f"{name}.d", io.BytesIO(open_member().read()), name, kept)
        return
    extension = Path(name).suffix.lower()
    target = (folder / name).resolve()
    if (
        extension not in KIND_OF
        or kept[extension] >= MAX_FILES
        or not target.is_relative_to(folder.resolve())
    ):
        return
    head = open_member().read(MAX_BYTES)
    if len(head) == MAX_BYTES:  # not in the middle of a character
        head = head.decode("utf-8", errors="ignore").encode()
    kept[extension] += 1
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(head)


def _unpack(folder: Path, archive: IO[bytes], name: str, kept: collections.Counter[str]) -> None:
    try:
        if name.endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as zipped:
                for info in zipped.infolist():
                    if not info.is_dir():
                        _keep(folder, info.filename, lambda info=info: zipped.open(info), kept)  # type: ignore[misc]
            return
        with tarfile.open(fileobj=archive, mode="r|*") as tarred:
            for member in tarred:
                if member.isfile():
                    _keep(
                        folder, member.name, lambda member=member: tarred.extractfile(member), kept
                    )  # type: ignore
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        lzma.LZMAError,
    ):
        return  # a broken archive among a package's test data


def _run(command: list[str], folder: str) -> None:
    subprocess.run(
        command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def fetch_package(kind: str, name: str, version: str, folder: Path) -> None:
    """Download a package with its registry's own client and unpack the texts in it; nothing of it is installed or built.

    Raises:
        subprocess.CalledProcessError: the client failed.
        StopIteration: the client downloaded nothing.
    """
    # pip would build an sdist to read its metadata; nothing is run, so the Python to run it on may be any
    unearth = [sys.executable, "-m", "unearth", "--download", ".", "--python-version", "3.14.9"]
    command = {
        "wheel": [*unearth, "--only-binary", f"{name}=={version}"],
        "sdist": [*unearth, "--no-binary", f"{name}=={version}"],
        "npm": ["npm", "pack", "--ignore-scripts", "--silent", f"{name}@{version}"],
        "deb": ["apt-get", "download", name],
    }[kind]
    with tempfile.TemporaryDirectory() as downloads:
        _run(command, downloads)
        file = next(Path(downloads).iterdir())
        if kind == "deb":
            tar = Path(downloads) / "data.tar"
            with tar.open("wb") as out:
                subprocess.run(["dpkg-deb", "--fsys-tarfile", str(file)], check=True, stdout=out)
            file = tar
        partial = folder.with_name(f".{folder.name}")
        partial.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as archive:
            _unpack(partial, archive, file.name, collections.Counter())
        partial.rename(folder)


def fetch(folder: Path, jobs: int) -> int:
    """Fetch the packages of the manifest that the folder lacks; return how many failed."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        line.split()
        for line in MANIFEST.read_text().splitlines()
        if line and not line.startswith("#")
    ]
    missing = [
        (kind, name, "".join(version), target)
        for kind, name, *version in lines
        if not (target := folder / f"{kind}-{name.replace('/', '+')}").exists()
    ]
    failed = 0
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(missing), unit=" packages") as bar:
        futures = {pool.submit(fetch_package, *package): package for package in missing}
        for future, (kind, name, _, _) in futures.items():
            error = future.exception()
            if error:
                failed += 1
                why = (getattr(error, "stderr", None) or b"").decode(
                    errors="replace"
                ).strip() or repr(error)
                bar.write(f"{kind} {name}: {why[-300:]}", file=sys.stderr)
            bar.set_postfix_str(name)
            bar.update()
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="*",
        help="folders whose entries are packages, e.g. what --fetch made",
    )
    parser.add_argument(
        "--fetch",
        type=Path,
        metavar="DIR",
        help="fetch the packages of legit_packages.txt into DIR",
    )
    parser.add_argument("--jobs", type=int, default=2, help="packages fetched at once (default 2)")
    parser.add_argument(
        "--installed",
        action="store_true",
        help="also this interpreter's packages, /usr/share, /usr/include",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of .txt and .jsonl files",
    )
    parser.add_argument(
        "--cap",
        type=int,
        default=CAP,
        help=f"characters of each extension and source (default {CAP:,})",
    )
    args = parser.parse_args()
    if args.fetch:
        sys.exit(1 if fetch(args.fetch, args.jobs) else 0)
    roots = [root for folder in args.folders for root in package_roots(folder)]
    if args.installed:
        roots += installed_roots()
    files: collections.Counter[str] = collections.Counter()
    chars: collections.Counter[str] = collections.Counter()
    sources: dict[str, set[str]] = collections.defaultdict(set)

    def count(texts: Iterable[LegitText]) -> None:
        for text in texts:
            for name in (text.extension, f"all {text.kind}", "all"):
                files[name] += 1
                chars[name] += len(text.text)
                sources[name].add(text.source)

    count(legit_texts(tqdm(roots, unit=" packages"), args.cap))
    for corpus in args.corpus:
        count(corpus_texts(corpus))
    print(f"{'extension':18} {'files':>7} {'sources':>8} {'Mchar':>7}")
    for name, number in files.most_common():
        print(f"{name:18} {number:7} {len(sources[name]):8} {chars[name] / 1e6:7.2f}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(130)  # do not wait for the downloads that are queued
