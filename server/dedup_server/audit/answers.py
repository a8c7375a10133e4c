"""Answers of all models to the same questions; no question is asked twice."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dedup_server.audit.models import LocalModel, Model
from dedup_server.audit.questions import Answer, Parameters, Question
from dedup_server.errors import ApiError, StartupError

_LOCAL_CONCURRENCY = 16
_SHOWN_CHARS = 200


class AnswersFile:
    """File of answers, one JSON line each, from which an interrupted run resumes.

    An incomplete last line is dropped: the process was killed while it wrote.

    Args:
        path: None keeps the answers in memory only.

    Raises:
        StartupError: the file cannot be read or written, or contains something else.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Answer] = {}
        if path is None:
            return
        try:
            with path.open("ab"):  # fails now if the file cannot be written, not after hours
                pass
            written = path.read_bytes()
            whole = written.rfind(b"\n") + 1
            if whole < len(written):
                with path.open("r+b") as file:
                    file.truncate(whole)
        except OSError as error:
            raise StartupError(f"{path}: {error.strerror or error}") from None
        for number, line in enumerate(written[:whole].splitlines(), 1):
            try:
                row = json.loads(line)
                key = _key(
                    row["model"],
                    Question(row["prompt"], row["seed"]),
                    Parameters(**row["parameters"]),
                )
                self._known[key] = Answer(row["text"], row["finish_reason"])
            except (ValueError, KeyError, TypeError):
                raise StartupError(f"{path}: line {number}: not an answer of an audit") from None

    def get(self, model: str, question: Question, parameters: Parameters) -> Answer | None:
        """Return the answer of the model with the key `model`, None if there is none."""
        return self._known.get(_key(model, question, parameters))

    def add(self, model: str, question: Question, parameters: Parameters, answer: Answer) -> None:
        """Append an answer. Raise `StartupError` if the file cannot be written."""
        self._known[_key(model, question, parameters)] = answer
        if self._path is not None:
            row = {
                "model": model,
                **asdict(question),
                "parameters": asdict(parameters),
                **asdict(answer),
            }
            try:
                with self._path.open("ab") as file:
                    file.write(json.dumps(row).encode() + b"\n")
            except OSError as error:
                raise StartupError(f"{self._path}: {error.strerror or error}") from None


async def answer_all(
    models: Sequence[Model],
    questions: Sequence[Question],
    parameters: Parameters,
    file: AnswersFile,
    concurrency: int,
    show: bool,
) -> list[list[Answer]]:
    """Return the answers of each model to the questions, in order.

    One model after another is started, asked the questions that `file` has no answers to, and
    stopped.

    Args:
        concurrency: questions in progress at a URL.
        show: show progress on standard error.

    Raises:
        StartupError: a model is not available, or does not answer.
    """
    missing = {
        model.key: [
            question for question in questions if file.get(model.key, question, parameters) is None
        ]
        for model in models
    }
    num_missing = sum(map(len, missing.values()))
    with tqdm(
        total=num_missing, unit=" answers", disable=not show or not num_missing, desc="dedup audit"
    ) as progress:
        for model in models:
            if left := missing.pop(model.key, []):
                await _ask_all(model, left, parameters, file, concurrency, progress)
    known = [
        [file.get(model.key, question, parameters) for question in questions] for model in models
    ]
    return [[answer for answer in row if answer is not None] for row in known]


async def _ask_all(
    model: Model,
    questions: Sequence[Question],
    parameters: Parameters,
    file: AnswersFile,
    concurrency: int,
    progress: Any,
) -> None:
    waiting = iter(questions)

    async def work() -> None:
        for question in waiting:
            try:
                answer = await model.ask(question, parameters)
            except ApiError as error:
                prompt = question.prompt[:_SHOWN_CHARS]
                raise StartupError(
                    f"{model.key}: no answer to {prompt!r}: {error.message[:_SHOWN_CHARS]}"
                ) from None
            file.add(model.key, question, parameters, answer)
            progress.update()

    try:
        await model.start()
        if isinstance(model, LocalModel):
            concurrency = _LOCAL_CONCURRENCY
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(questions))):
                group.create_task(work())
    except ExceptionGroup as group:  # the first failure has cancelled the other tasks
        raise group.exceptions[0] from None
    finally:
        await model.stop()


def _key(model: str, question: Question, parameters: Parameters) -> str:
    return json.dumps([model, *asdict(question).values(), *asdict(parameters).values()])
