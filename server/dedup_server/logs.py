"""The server's log: text lines or JSON lines, one per request."""

import logging
import sys
import time
from typing import Any, Literal

from dedup.lenient_json import write_json

_log = logging.getLogger("dedup.requests")


def configure(log_format: Literal["text", "json"]) -> None:
    """Send the log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dedup").setLevel(logging.INFO)
    # Goal: cheap records. No line shows the process, the thread or the place in the code.
    logging.logProcesses = logging.logThreads = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.raiseExceptions = False  # an error while logging must not be logged


def log_request(**fields: Any) -> None:
    """Log one request in one line. Fields that are None are omitted."""
    if _log.isEnabledFor(logging.INFO):
        # As arguments, and not as `extra`, which copies them one by one.
        _log.info("request", {name: value for name, value in fields.items() if value is not None})


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = _fields_of(record)
        if fields:
            return " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        return super().format(record)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return write_json(line).decode("utf-8", "replace")


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a request's line; none of another line."""
    if record.name == _log.name and isinstance(record.args, dict):
        return record.args
    return {}


def _shown(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else repr(text)
