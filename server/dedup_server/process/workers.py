"""Worker processes that share a port, and the supervisor that keeps them alive."""

import gc
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from types import FrameType

from dedup_server.errors import StartupError
from dedup_server.logs import report_failure
from dedup_server.process.sockets import Listeners

_log = logging.getLogger("dedup.server")

_RESTART_SECONDS = 1.0
_CANNOT_START = 3  # exit code of a worker
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# Serves on its sockets until the pipe with this file descriptor ends. Raises `StartupError`.
Serve = Callable[[int, int], None]


class _Stage(Enum):
    """Stage of the supervisor. It only moves on."""

    RUNNING = auto()  # a worker that ends is started again
    STOPPING = auto()  # a signal came: workers end
    FAILED = auto()  # a worker cannot start, so none can: the others are stopped


class Supervisor:
    """Parent of the workers, one per listener, that restarts those that end.

    All workers count into one directory, so that each of them can report the metrics of all.

    Args:
        listeners: sockets of each worker.
        serve: runs in a worker with the number of its sockets, and with the file descriptor of a
            pipe that ends when the supervisor does.
    """

    def __init__(self, listeners: list[Listeners], serve: Serve) -> None:
        self._listeners = listeners
        self._serve = serve
        self._stage = _Stage.RUNNING
        self._workers: dict[int, int] = {}  # process id to number of its sockets
        self._pipe, self._pipe_end = os.pipe()
        self._metrics_directory = tempfile.mkdtemp(prefix="dedup-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = self._metrics_directory

    def run(self) -> None:
        """Run until all workers have ended.

        Raises:
            StartupError: no worker could start.
        """
        try:
            _preload()
            for sig in _SIGNALS:
                signal.signal(sig, self._forward)
            for number in range(len(self._listeners)):
                self._start(number)
            while self._workers:
                pid, status = os.wait()
                number = self._workers.pop(pid, -1)
                self._remove_gauges(pid)
                self._handle_exit(number, os.waitstatus_to_exitcode(status))
        finally:
            for pid in self._workers:
                os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self._metrics_directory, ignore_errors=True)
        if self._stage is _Stage.FAILED:
            raise StartupError("no worker could start")

    def _start(self, number: int) -> None:
        pid = os.fork()
        if pid == 0:
            for sig in _SIGNALS:
                signal.signal(sig, signal.SIG_DFL)
            os.close(self._pipe_end)
            os._exit(self._work(number))
        self._workers[pid] = number

    def _work(self, number: int) -> int:
        """Serve in this process, a worker. Return its exit code."""
        for other, listener in enumerate(self._listeners):
            if other != number:
                listener.close()
        try:
            self._serve(number, self._pipe)
        except StartupError as error:
            report_failure(error)
            return _CANNOT_START
        except BaseException:
            _log.exception("the worker failed")
            return 1
        return 0

    def _forward(self, sig: int, frame: FrameType | None) -> None:
        """Pass a signal on to the workers."""
        if sig != signal.SIGHUP:
            if self._stage is _Stage.RUNNING:
                self._stage = _Stage.STOPPING
            # A socket that stays open here would accept connections that nobody answers.
            for listener in self._listeners:
                listener.close()
        for pid in self._workers:
            os.kill(pid, signal.SIGTERM if sig == signal.SIGINT else sig)

    def _handle_exit(self, number: int, code: int) -> None:
        if code == _CANNOT_START:
            self._stage = _Stage.FAILED
            for pid in self._workers:
                os.kill(pid, signal.SIGTERM)
        if self._stage is not _Stage.RUNNING:
            return
        _log.error("worker %d ended with exit code %d; it is restarted", number + 1, code)
        time.sleep(_RESTART_SECONDS)
        if self._stage is _Stage.RUNNING:  # no signal came meanwhile
            self._start(number)

    def _remove_gauges(self, pid: int) -> None:
        """Remove what a worker that has ended reported as in progress; its counters stay."""
        for path in Path(self._metrics_directory).glob(f"gauge_live*_{pid}.db"):
            path.unlink(missing_ok=True)


def _preload() -> None:
    """Load what every worker needs once: workers start fast and share its memory."""
    import dedup_server.app
    import dedup_server.engines.upstream.engine
    import dedup_server.http.protocol
    import dedup_server.process.server  # noqa: F401
    from dedup.text.segmenter import load_punkt

    load_punkt()
    gc.collect()
    gc.freeze()
