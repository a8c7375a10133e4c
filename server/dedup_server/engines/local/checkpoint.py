"""Location of a model's weights, and checks that load nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedup_server.engines.local import gguf_file
from dedup_server.errors import StartupError

_EXPECTED = (
    "give a folder with config.json and weights, a GGUF file, or a hub id such as owner/name"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's weights and tokenizer: a folder, a GGUF file, or a repository on the hub.

    Args:
        given: the name as the user gave it, for messages.
        path: the folder or the file; None on the hub.
        is_gguf: whether `path` is a GGUF file.
    """

    given: str
    path: Path | None
    is_gguf: bool

    @classmethod
    def of(cls, model: str) -> "Checkpoint":
        """Return the checkpoint that a path or a hub id names; it need not exist."""
        path = Path(model).expanduser()
        is_path = path.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1
        is_gguf = path.is_file() or (path.suffix == ".gguf" and not path.is_dir())
        return cls(model, path if is_path or is_gguf else None, is_gguf)

    @property
    def name(self) -> str:
        """The name for clients: the folder's, the file's without its suffix, or the hub id."""
        if self.path is None:
            return self.given
        return self.path.stem if self.is_gguf else self.path.resolve().name

    @property
    def source(self) -> str:
        """The first argument of `from_pretrained`."""
        if self.path is None:
            return self.given
        return str(self.path.parent if self.is_gguf else self.path)

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of `from_pretrained`."""
        return {"gguf_file": self.path.name} if self.path and self.is_gguf else {}

    def files(self) -> Iterator[Path]:
        """Yield the files of a local checkpoint."""
        if self.path is not None:
            yield from (
                one
                for one in ([self.path] if self.is_gguf else self.path.iterdir())
                if one.is_file()
            )

    def require(self) -> None:
        """Raise `StartupError` if there is no model at the path, or a GGUF file is unusable."""
        if not self.given:
            raise StartupError(f"model: must not be empty; {_EXPECTED}")
        if self.path is None:
            return
        if self.is_gguf:
            gguf_file.require_readable(self.path)
            return
        if not self.path.is_dir():
            raise StartupError(f"{self.given}: no such folder; {_EXPECTED}")
        files = sorted(path.name for path in self.path.glob("*.gguf"))
        if files and not (self.path / "config.json").exists():
            raise StartupError(f"{self.given}: a folder; give one of its files: {', '.join(files)}")
        if not (self.path / "config.json").exists():
            raise StartupError(f"{self.given}: has no config.json; is it the folder of a model?")
        if not any(self.path.glob("*.safetensors")) and not any(self.path.glob("*.bin")):
            raise StartupError(f"{self.given}: has no weights (*.safetensors or *.bin)")
