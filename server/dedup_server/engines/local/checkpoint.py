"""What can be told of a model's path without loading anything."""

from pathlib import Path

from dedup_server.errors import StartupError


def is_local(model: str) -> bool:
    """Whether `model` is meant as a path and not as a hub id."""
    return (
        Path(model).expanduser().exists()
        or model.startswith((".", "/", "~"))
        or model.count("/") > 1
    )


def require_checkpoint(model: str) -> None:
    """Raises `StartupError` in one line if `model` is a path with no model in it."""
    path = Path(model).expanduser()
    if not model:
        raise StartupError(
            "model: must not be empty; give a folder with config.json and weights, or a hub id such as owner/name"
        )
    if not is_local(model):
        return
    if not path.is_dir():
        raise StartupError(
            f"{model}: no such folder; give a folder with config.json and weights, or a hub id such as owner/name"
        )
    if not (path / "config.json").exists():
        raise StartupError(f"{model}: has no config.json; is it a model's folder?")
    if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        raise StartupError(f"{model}: has no weights (*.safetensors or *.bin)")
