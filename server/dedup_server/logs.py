"""The server's log: text lines or JSON lines, one per request."""

import io
import logging
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, TextIO

from dedup.lenient_json import write_json
from dedup_server.log_line import REQUEST, json_line, stamped, text_line

_log = logging.getLogger("dedup.requests")
_server = logging.getLogger("dedup.server")


def configure(log_format: Literal["text", "json"]) -> None:
    """Send the log to standard error.

    In JSON, nothing but the log goes there: whatever else Python code prints becomes a line of it.
    """
    stderr: TextIO | None = sys.__stderr__ if isinstance(sys.stderr, _Lines) else sys.stderr
    handler = _Handler(stderr, _TextFormatter(), text_line)
    if log_format == "json":
        handler = _Handler(stderr, _JsonFormatter(), json_line)
        logging.captureWarnings(True)
        sys.stdout, sys.stderr = _Lines(), _Lines()
        sys.excepthook = _log_failure
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dedup").setLevel(logging.INFO)
    # Goal: cheap records. No line shows the process, the thread or the place in the code.
    logging.logProcesses = logging.logThreads = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.raiseExceptions = False  # an error while logging must not be logged


def report_failure(reason: Exception) -> None:
    """Say why the server does not start. Of several reasons, each is a line."""
    for line in str(reason).splitlines():
        if isinstance(sys.stderr, _Lines):
            _server.error("%s", line)
        else:
            print(f"dedup: error: {line}", file=sys.stderr, flush=True)


def log_request(**fields: Any) -> None:
    """Log one request in one line. Fields that are None are omitted."""
    if not _log.isEnabledFor(logging.INFO):
        return
    root = logging.getLogger()
    only = root.handlers[0] if len(root.handlers) == 1 and not _log.handlers else None
    if isinstance(only, _Handler):
        only.write(fields)
    else:  # as arguments, and not as `extra`, which copies them one by one
        _log.info(REQUEST, {name: value for name, value in fields.items() if value is not None})


class _Handler(logging.StreamHandler[TextIO]):
    """Handler of all of the log. It also takes a request's fields without a record.

    Making a record takes longer than making the line.
    """

    def __init__(
        self,
        stream: TextIO | None,
        formatter: logging.Formatter,
        line_of: Callable[[dict[str, Any]], str],
    ) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._line_of = line_of

    def write(self, fields: dict[str, Any]) -> None:
        """Write the line of a request."""
        try:
            self.stream.write(self._line_of(fields) + self.terminator)
            self.stream.flush()
        except Exception:  # noqa: S110 - as `emit` does: a full disk must not cost an answer
            pass


class _Lines(io.TextIOBase):
    """Standard output or error, of which each line becomes a record of the log."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).replace("\r", "\n").split("\n")
        for line in filter(str.strip, lines):
            _server.info("%s", line)
        return len(text)

    def writable(self) -> bool:
        return True


def _log_failure(
    kind: type[BaseException], failure: BaseException, trace: TracebackType | None
) -> None:
    _server.critical("the process failed", exc_info=(kind, failure, trace))


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = _fields_of(record)
        return text_line(fields) if fields else super().format(record)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = stamped(record.created, record.levelname.lower(), record.getMessage())
        line.update(_fields_of(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return write_json(line).decode("utf-8", "replace")


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that one of our lines has; none of another line."""
    if record.name.startswith("dedup.") and isinstance(record.args, dict):
        return record.args
    return {}
