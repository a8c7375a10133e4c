"""Prompts, parameters and answers of an audit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dedup_server.errors import StartupError


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of generation. raw: prompts are completed without the model's chat template."""

    max_tokens: int
    temperature: float
    raw: bool = False

    def body(self, prompt: str, seed: int) -> dict[str, Any]:
        """Return the body of a request."""
        given: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
        if self.raw:
            given = {"prompt": prompt}
        return {
            **given,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": 1.0,
            "seed": seed,
        }


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and the seed of one sample."""

    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The text that a model generated for a question, reasoning first."""

    text: str
    finish_reason: str | None


def read_prompts(path: Path) -> list[str]:
    """Return the distinct prompts of a file.

    Args:
        path: a prompt per line; in a `.jsonl` file, an object with a string `prompt` per line.

    Raises:
        StartupError: the file cannot be read, or a line is invalid.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise StartupError(f"{path}: is not UTF-8") from None
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if path.suffix == ".jsonl":
            try:
                row = msgspec.json.decode(line)
            except (ValueError, RecursionError):
                raise StartupError(f"{path}: line {number}: invalid JSON") from None
            prompt = row.get("prompt") if isinstance(row, dict) else None
            if not isinstance(prompt, str) or not prompt.strip():
                raise StartupError(
                    f'{path}: line {number}: must be an object with a string "prompt"'
                )
        else:
            prompt = line.strip()
        prompts.append(prompt)
    if not prompts:
        raise StartupError(f"{path}: has no prompts")
    return list(dict.fromkeys(prompts))  # a duplicate would narrow the intervals
