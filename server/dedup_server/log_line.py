"""The line of the log that a request leaves, as text and as JSON."""

import time
from typing import Any

from dedup.lenient_json import write_json

REQUEST = "request"  # the event of the line


def text_line(fields: dict[str, Any]) -> str:
    """Return the fields that are not None as `name=value`."""
    return " ".join(
        [f"{name}={_shown(value)}" for name, value in fields.items() if value is not None]
    )


def json_line(fields: dict[str, Any]) -> str:
    """Return the fields that are not None as a JSON object, behind the time."""
    line = stamped(time.time(), "info", REQUEST)
    for name, value in fields.items():
        if value is not None:
            line[name] = value
    return write_json(line).decode("utf-8", "replace")


def stamped(seconds: float, level: str, event: str) -> dict[str, Any]:
    """Return the first fields of a line in JSON. seconds: of its time, since the epoch."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    milliseconds = int(seconds % 1 * 1000)
    return {"time": f"{stamp}.{milliseconds:03d}Z", "level": level, "event": event}


def _shown(value: Any) -> str:
    if isinstance(value, (int, float)):
        return str(value)
    text = value if isinstance(value, str) else str(value)
    return text if text.isprintable() and " " not in text and text else repr(text)
