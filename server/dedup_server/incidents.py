"""A log of loops, for those who want to look at them or to cure the model of them: JSON lines, bounded, only where it is asked for."""

import logging
import os
import time
from pathlib import Path
from typing import Any

from dedup.lenient_json import write_json

_log = logging.getLogger("dedup.server")


class IncidentLog:
    """Appends to `path`. At `max_bytes` the file becomes `<path>.1`, in the place of an older one, and a new one begins."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max = max_bytes
        self._failed = False

    def write(self, incident: dict[str, Any]) -> None:
        """A log that cannot be written is said once; no request fails for it."""
        line = (
            write_json({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **incident})
            + b"\n"
        )
        try:
            if self._path.exists() and self._path.stat().st_size + len(line) > self._max:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            # One write to the end of the file: several processes may share it. It holds what was said, so it is nobody else's to read.
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(file, line)
            finally:
                os.close(file)
            self._failed = False
        except OSError as error:
            if not self._failed:
                _log.warning(
                    "the incident log %s cannot be written: %s", self._path, error.strerror or error
                )
            self._failed = True
