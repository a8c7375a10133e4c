"""A log of loops as JSON lines, to inspect them or to train on them. It is bounded and opt-in."""

import logging
import os
import time
from pathlib import Path
from typing import Any

from dedup.lenient_json import write_json

_log = logging.getLogger("dedup.server")


class IncidentLog:
    """File of incidents. At `max_bytes` it replaces `<path>.1`, and a new file begins."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max = max_bytes
        self._has_failed = False  # since the last successful write

    def write(self, incident: dict[str, Any]) -> None:
        """Append an incident. An error is logged once; it does not fail the request."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = write_json({"time": now, **incident}) + b"\n"
        try:
            if self._path.exists() and self._path.stat().st_size + len(line) > self._max:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            # One write to the end: several processes may share the file. Only its owner may read
            # it, since it holds prompts and generated text.
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(file, line)
            finally:
                os.close(file)
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                reason = error.strerror or error
                _log.warning("the incident log %s cannot be written: %s", self._path, reason)
            self._has_failed = True
