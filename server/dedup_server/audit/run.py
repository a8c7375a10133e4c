"""An audit, from prompts to report."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from dedup_server.audit import page
from dedup_server.audit.answers import AnswersFile, answer_all
from dedup_server.audit.compare import Audit, audit, failures, questions_of
from dedup_server.audit.models import model_of
from dedup_server.audit.questions import Parameters, read_prompts
from dedup_server.audit.report import as_json
from dedup_server.engines.local.checkpoint import Checkpoint
from dedup_server.errors import StartupError


def run(
    models: Sequence[str],
    prompts: Path,
    samples: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    raw: bool,
    max_rise: float,
    max_loop_rate: float | None,
    answers: Path | None,
    json_file: Path | None,
    html_file: Path | None,
    device: str | None,
    concurrency: int,
    api_key_env: str | None,
) -> Audit:
    """Run the audit that the options of `dedup audit` describe, and write its files.

    Raises:
        StartupError: an option is invalid, a model is not available or a file cannot be written.
    """
    if samples > 1 and temperature == 0:
        raise StartupError(
            "--samples: at temperature 0 all samples of a prompt are equal;"
            " set --temperature, or omit --samples"
        )
    for file in (json_file, html_file):
        if file is not None and not file.resolve().parent.is_dir():
            raise StartupError(f"{file}: there is no folder {file.parent}")
    if any("://" not in model for model in models) and not (
        find_spec("torch") and find_spec("transformers")
    ):
        raise StartupError(
            'a model in this process needs torch and transformers: pip install "dedup-llm[local]"'
        )
    api_key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not api_key:
        raise StartupError(f"--api-key-env: the variable {api_key_env} is not set")
    texts = read_prompts(prompts)
    audited = [model_of(model, device, api_key) for model in models]
    parameters = Parameters(max_tokens, temperature, raw)
    questions = questions_of(texts, samples, seed)
    store, show = AnswersFile(answers), sys.stderr.isatty()
    given = asyncio.run(answer_all(audited, questions, parameters, store, concurrency, show))
    done = audit(_names(models), texts, parameters, seed, given)
    done = replace(done, failures=failures(done, max_loop_rate, max_rise))
    if json_file:
        _write(json_file, json.dumps(as_json(done), indent=1))
    if html_file:
        _write(html_file, page.html(done))
    return done


def _names(models: Sequence[str]) -> list[str]:
    """Return the names of models in a report.

    A path is shortened to its end and a URL to its model or host, unless two names would be equal.
    A model that is given twice is numbered.
    """
    short = {model: _name(model) for model in models}
    named = [
        model if list(short.values()).count(short[model]) > 1 else short[model] for model in models
    ]
    return [
        f"{name} ({named[: at + 1].count(name)})" if named.count(name) > 1 else name
        for at, name in enumerate(named)
    ]


def _name(model: str) -> str:
    if "://" not in model:
        return Checkpoint.of(model).name
    parts = urlsplit(model)
    return parts.fragment or parts.netloc


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror or error}") from None
