"""Starts the server and ends it: sockets, processes, signals."""

import asyncio
import gc
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from dedup.version import build_form, version
from dedup_server.engines.local.checkpoint import require_checkpoint
from dedup_server.errors import StartupError
from dedup_server.logs import configure
from dedup_server.settings import Settings, SettingsError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from dedup_server.engines.base import Engine
    from dedup_server.telemetry import Telemetry

_log = logging.getLogger("dedup.server")

_KEEP_ALIVE_SECONDS = 75  # longer than clients' own, so that they close first
_GOODBYE_SECONDS = 1  # of the grace period; enough to send what was held and the error
_RESTART_SECONDS = 1.0
_SPARE_FILES = 128  # open files that no stream needs
_FILES_PER_STREAM = 2
_CANNOT_START = 3  # exit code of a worker

Load = Callable[[], Settings]


def run(load: Load) -> None:
    """Serves until told to stop. load: gives the settings, and gives them anew on SIGHUP. Raises `StartupError`."""
    settings = load()
    configure(settings.log_format)
    if settings.model is not None:
        require_checkpoint(settings.model)
    _raise_file_limit()
    listeners = _listen(settings.host, settings.port, settings.workers)
    try:
        if settings.workers > 1:
            _supervise(settings, load, listeners)
        else:
            _work(settings, load, listeners[0])
    finally:
        for listener in listeners:
            listener.close()


def _work(
    settings: Settings,
    load: Load,
    listener: socket.socket,
    *,
    greets: bool = True,
    supervisor: int | None = None,
) -> None:
    """Serves in this process. Raises `StartupError`. supervisor: a pipe that ends with the process that watches over this one."""
    import uvicorn

    from dedup_server.app import create_app
    from dedup_server.http.protocol import guarded_by
    from dedup_server.telemetry import Telemetry

    telemetry = Telemetry()
    engine = _engine(settings, telemetry)
    telemetry.learn(engine.models)
    app = create_app(_limited(settings), engine, telemetry)
    config = uvicorn.Config(
        app,
        http=guarded_by(
            settings.max_header_bytes,
            settings.header_timeout_seconds,
            settings.idle_timeout_seconds,
        ),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.grace_seconds,  # type: ignore[arg-type]
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(
            _serve(config, app, listener, settings, engine, load, telemetry, greets, supervisor)
        )


async def _serve(
    config: "uvicorn.Config",
    app: "FastAPI",
    listener: socket.socket,
    settings: Settings,
    engine: "Engine",
    load: Load,
    telemetry: "Telemetry",
    greets: bool,
    supervisor: int | None,
) -> None:
    """Raises `StartupError` when the engine does not start."""
    server = _server(config)
    if supervisor is not None:
        loop = asyncio.get_running_loop()

        def stop() -> (
            None
        ):  # else it would go on taking a share of the port's connections, whoever else listens there
            loop.remove_reader(supervisor)
            server.should_exit = True

        loop.add_reader(supervisor, stop)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not serving.done() and not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    if serving.done():
        await serving
        return
    starting: asyncio.Task[None] = app.state.starting
    await asyncio.wait({starting, serving}, return_when=asyncio.FIRST_COMPLETED)
    failure = starting.exception() if starting.done() and not starting.cancelled() else None
    if failure:
        server.should_exit = True
    elif starting.done():
        reloader = Reloader(app, load, telemetry)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.begin)
        gc.collect()
        gc.freeze()  # what is there now stays: looking through it again and again is for nothing
        if greets:
            _greet(settings, listener.getsockname()[1])
        if not await engine.ready():
            _log.warning(
                "the upstream does not answer (yet): requests fail, and /health/ready says 503, until it does"
            )
    await serving
    if failure:
        raise (
            failure
            if isinstance(failure, StartupError)
            else StartupError(f"the engine did not start: {failure}")
        )


def _server(config: "uvicorn.Config") -> "uvicorn.Server":
    import uvicorn

    class Server(uvicorn.Server):
        """Told to stop, waits for the requests in progress; breaks them off, each with an error, before uvicorn drops them, or when
        told twice. Signals are not raised again when all is done, as uvicorn would: an end in order exits 0."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.should_exit:
                asyncio.get_running_loop().call_soon_threadsafe(self._break_off)
            self.should_exit = True

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            grace = self.config.timeout_graceful_shutdown or 0
            if num_requests := len(self.server_state.tasks):
                _log.info(
                    "stopping: waits up to %g s for %d request%s",
                    grace,
                    num_requests,
                    "s" * (num_requests > 1),
                )
            timer = asyncio.get_running_loop().call_later(grace - _GOODBYE_SECONDS, self._break_off)
            await super().shutdown(sockets)
            timer.cancel()

        def _break_off(self) -> None:
            for task in self.server_state.tasks:
                task.cancel()

    return Server(config)


class Reloader:
    """Puts new settings in force. Requests in progress end as they began; what is wrong changes nothing."""

    # What the process was started with.
    _FIXED: tuple[str, ...] = (
        "host",
        "port",
        "workers",
        "model",
        "model_name",
        "device",
        "dtype",
        "max_concurrent",
        "log_format",
    )
    _FIXED += ("trust_remote_code", "max_header_bytes", "header_timeout_seconds", "grace_seconds")

    def __init__(self, app: "FastAPI", load: Load, telemetry: "Telemetry") -> None:
        self._app = app
        self._load = load
        self._telemetry = telemetry
        self._reloading: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Called on SIGHUP."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        from dedup_server.app import Service
        from dedup_server.engines.upstream.engine import UpstreamEngine

        old: Service = self._app.state.service
        try:
            settings = self._load()
            if bool(settings.all_upstreams) != bool(old.settings.all_upstreams):
                raise SettingsError(
                    "from a model in this process to an upstream, or back, takes a restart"
                )
        except SettingsError as error:
            _log.error("not reloaded: %s", error)
            return
        for name in self._FIXED:
            if getattr(settings, name) != getattr(old.settings, name):
                _log.warning("%s takes a restart to change", name)
        settings = _limited(settings)
        engine = old.engine
        if settings.all_upstreams:
            engine = UpstreamEngine(settings, self._telemetry)
            await engine.start()
        old.streams.max_streams = settings.max_streams
        self._app.state.service = Service(settings, engine, old.streams)
        if engine is not old.engine:
            await old.engine.stop()
        _log.info("reloaded")


def _supervise(settings: Settings, load: Load, listeners: list[socket.socket]) -> None:
    """Keeps a worker alive at each listener; all of them count into one directory, so that each can tell `/metrics` of all."""
    directory = tempfile.mkdtemp(prefix="dedup-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    _preload()
    ends_with_supervisor, supervisor = os.pipe()
    stopping = False
    workers: dict[int, int] = {}  # process id to listener

    def forward(sig: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = stopping or sig != signal.SIGHUP
        if stopping:
            for listener in (
                listeners
            ):  # what is held open here would go on taking connections that nobody answers
                listener.close()
        for pid in workers:
            os.kill(pid, signal.SIGTERM if sig == signal.SIGINT else sig)

    def start(number: int) -> None:
        pid = os.fork()
        if pid == 0:
            for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(sig, signal.SIG_DFL)
            os.close(supervisor)
            os._exit(_worker(settings, load, listeners, number, ends_with_supervisor))
        workers[pid] = number

    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, forward)
    try:
        for number in range(len(listeners)):
            start(number)
        failed = False
        while workers:
            pid, status = os.wait()
            number = workers.pop(pid, -1)
            code = os.waitstatus_to_exitcode(status)
            _forget(directory, pid)
            if code == _CANNOT_START:
                failed = stopping = True
                for other in workers:
                    os.kill(other, signal.SIGTERM)
            if not stopping:
                _log.error("worker %d ended with %d; it is started again", number + 1, code)
                time.sleep(_RESTART_SECONDS)
                if not stopping:
                    start(number)
        if failed:
            raise StartupError("no worker could start")
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)


def _preload() -> None:
    """What every worker needs, once: they start at once and share its memory."""
    import dedup_server.app
    import dedup_server.engines.upstream.engine
    import dedup_server.http.protocol  # noqa: F401
    from dedup.text.segmenter import load_punkt

    load_punkt()
    gc.collect()
    gc.freeze()


def _worker(
    settings: Settings, load: Load, listeners: list[socket.socket], number: int, supervisor: int
) -> int:
    """A worker's whole life; its exit code."""
    for other in range(len(listeners)):
        if other != number:
            listeners[other].close()
    try:
        _work(settings, load, listeners[number], greets=number == 0, supervisor=supervisor)
    except StartupError as error:
        print(f"dedup: error: {error}", file=sys.stderr, flush=True)
        return _CANNOT_START
    except BaseException:
        _log.exception("the worker failed")
        return 1
    return 0


def _forget(directory: str, pid: int) -> None:
    """What a worker that has ended has in progress is nothing; what it counted stays."""
    for path in Path(directory).glob(f"gauge_live*_{pid}.db"):
        path.unlink(missing_ok=True)


def _engine(settings: Settings, telemetry: "Telemetry") -> "Engine":
    if settings.all_upstreams:
        from dedup_server.engines.upstream.engine import UpstreamEngine

        return UpstreamEngine(settings, telemetry)
    try:
        from dedup_server.engines.local.engine import DEMO_MODEL, LocalEngine
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("torch", "transformers", "accelerate"):
            raise StartupError(
                f'a model in this process needs {error.name}: pip install "dedup-llm[local]", or use --upstream URL'
            ) from None
        raise
    return LocalEngine(
        settings.model or str(DEMO_MODEL),
        settings.model_name,
        settings.max_concurrent,
        settings.device,
        settings.dtype,
        settings.trust_remote_code,
    )


def _limited(settings: Settings) -> Settings:
    """With a limit of streams: past that of open files, connections would fail one by one with no word why."""
    if settings.max_streams is not None:
        return settings
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return settings.model_copy(
        update={"max_streams": max(16, (most - _SPARE_FILES) // _FILES_PER_STREAM)}
    )


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(host: str, port: int, num_listeners: int) -> list[socket.socket]:
    """Sockets on one address, between which the system divides the connections. Raises `StartupError`."""
    listeners: list[socket.socket] = []
    try:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except OSError as error:
            raise StartupError(f"cannot listen on {host}: {error.strerror or error}") from None
        # A probe without SO_REUSEPORT: else a second server on the port would not be noticed.
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            address = probe.getsockname()
            if num_listeners > 1:
                probe.listen(1)
        for _ in range(num_listeners):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if num_listeners > 1:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            if num_listeners == 1:  # else each begins when its worker is ready
                listener.listen(2048)
            listener.setblocking(False)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise StartupError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port"
        ) from None
    return listeners


def _greet(settings: Settings, port: int) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}"
    model = '"model": "MODEL", ' if settings.all_upstreams else ""
    body = "{" + model + '"stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'
    behind = (
        ", ".join(one.url for one in settings.all_upstreams)
        or settings.model
        or "the bundled demo model"
    )
    print(f"dedup listens on {url} (model: {behind}; version {version()}, {build_form()})")
    if build_form() == "interpreted":
        print(
            "the filter runs interpreted, two to three times slower: install it again where there is a C compiler and Python.h"
        )
    print(
        f"try: curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'",
        flush=True,
    )
