"""Checks of a model's path that load nothing."""

from pathlib import Path

from dedup_server.errors import StartupError

_EXPECTED = "give a folder with config.json and weights, or a hub id such as owner/name"


def is_local(model: str) -> bool:
    """Return whether `model` is a path, not a hub id."""
    return (
        Path(model).expanduser().exists()
        or model.startswith((".", "/", "~"))
        or model.count("/") > 1
    )


def require_checkpoint(model: str) -> None:
    """Raise `StartupError` if `model` is a path without a model."""
    path = Path(model).expanduser()
    if not model:
        raise StartupError(f"model: must not be empty; {_EXPECTED}")
    if not is_local(model):
        return
    if not path.is_dir():
        raise StartupError(f"{model}: no such folder; {_EXPECTED}")
    if not (path / "config.json").exists():
        raise StartupError(f"{model}: has no config.json; is it the folder of a model?")
    if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        raise StartupError(f"{model}: has no weights (*.safetensors or *.bin)")
