"""The server as a process: from its settings to its end."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dedup.version import build_form, version
from dedup_server.engines.local.checkpoint import Checkpoint
from dedup_server.errors import StartupError
from dedup_server.logs import configure
from dedup_server.process.reload import Reloader
from dedup_server.process.sockets import Listeners, listen, raise_file_limit, with_stream_limit
from dedup_server.process.workers import Supervisor
from dedup_server.settings import Settings

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

    from dedup_server.engines.base import Engine
    from dedup_server.http.protocol import Limits
    from dedup_server.process.server import Server
    from dedup_server.telemetry import Telemetry

_log = logging.getLogger("dedup.server")

_KEEP_ALIVE_SECONDS = 75  # longer than clients' own, so that they close first
_POLL_SECONDS = 0.01
_OBJECTS_A_COLLECTION = 20_000
_ADMIN_GRACE_SECONDS = 1  # for scrapes in progress
_LOCAL_PACKAGES = ("torch", "transformers", "accelerate")


def run(load: Callable[[], Settings]) -> None:
    """Serve until a signal stops the process.

    Args:
        load: returns the settings; called again on SIGHUP.

    Raises:
        StartupError: the server cannot start.
    """
    settings = load()
    configure(settings.log_format)
    if not settings.all_upstreams and not (find_spec("torch") and find_spec("transformers")):
        raise StartupError(
            "a model in this process needs torch and transformers:"
            ' pip install "dedup-llm[local]" (or proxy a server: dedup serve --upstream URL)'
        )
    if settings.model is not None:
        Checkpoint.of(settings.model).require()
    raise_file_limit()
    listeners = listen(settings)

    def serve(number: int, supervisor: int) -> None:
        Process(settings, load, listeners[number]).run(greets=number == 0, supervisor=supervisor)

    try:
        if settings.workers > 1:
            Supervisor(listeners, serve).run()
        else:
            Process(settings, load, listeners[0]).run()
    finally:
        for listener in listeners:
            listener.close()


class Process:
    """One process that serves.

    Args:
        load: returns the settings that SIGHUP puts in force.
    """

    def __init__(
        self, settings: Settings, load: Callable[[], Settings], listeners: Listeners
    ) -> None:
        # Imported here: `dedup serve` reports wrong settings before it loads a web framework.
        from dedup_server.app import create_admin_app, create_app
        from dedup_server.telemetry import Telemetry

        self._settings = settings
        self._listeners = listeners
        telemetry = Telemetry()
        self._engine = _engine(settings, telemetry)
        telemetry.learn(self._engine.models)
        self._app = create_app(with_stream_limit(settings), self._engine, telemetry)
        self._admin_app = create_admin_app(self._app)
        self._reloader = Reloader(self._app, load, telemetry)

    def run(self, *, greets: bool = True, supervisor: int | None = None) -> None:
        """Serve until a signal stops the process.

        Args:
            greets: print how to use the server when it is ready.
            supervisor: file descriptor of a pipe that ends when the supervisor does.

        Raises:
            StartupError: the engine did not start.
        """
        from dedup_server.process.server import Server

        settings = self._settings
        limits = self._limits()
        config = self._config(self._app, limits, settings.grace_seconds)

        def on_stop() -> None:
            limits.is_draining = self._app.state.is_draining = True
            if self._app.state.starting is not None:
                self._app.state.starting.cancel()

        server = Server(config, settings.shutdown_delay_seconds, on_stop)
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(self._serve(server, greets, supervisor))

    def _limits(self) -> "Limits":
        from dedup_server.http.protocol import Limits

        settings = self._settings
        return Limits(
            settings.max_header_bytes,
            settings.header_timeout_seconds,
            settings.idle_timeout_seconds,
        )

    def _config(self, app: "Starlette", limits: "Limits", grace_seconds: float) -> "uvicorn.Config":
        import uvicorn

        from dedup_server.http.protocol import protocol_with

        settings = self._settings
        return uvicorn.Config(
            app,
            http=protocol_with(limits),  # type: ignore[arg-type]
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.forwarded_allow_ips),
            forwarded_allow_ips=list(settings.forwarded_allow_ips),
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=grace_seconds,  # type: ignore[arg-type]
        )

    async def _serve(self, server: "Server", greets: bool, supervisor: int | None) -> None:
        if supervisor is not None:
            _stop_with(supervisor, server)
        async with self._admin_port():
            serving = asyncio.create_task(server.serve(sockets=[self._listeners.public]))
            while not serving.done() and not server.started:  # noqa: ASYNC110 - uvicorn has no event
                await asyncio.sleep(_POLL_SECONDS)
            if serving.done():
                try:
                    await serving
                except OSError as error:  # another server has taken the port meanwhile
                    raise StartupError(f"cannot listen: {error}") from None
                return
            await self._serve_until_stopped(server, serving, greets)

    @contextlib.asynccontextmanager
    async def _admin_port(self) -> AsyncIterator[None]:
        """Serve the admin port, if there is one, to the end: the last counts can be scraped."""
        from dedup_server.process.server import AdminServer

        if self._listeners.admin is None:
            yield
            return
        config = self._config(self._admin_app, self._limits(), _ADMIN_GRACE_SECONDS)
        server = AdminServer(config)
        serving = asyncio.create_task(server.serve(sockets=[self._listeners.admin]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving

    async def _serve_until_stopped(
        self, server: "Server", serving: asyncio.Task[None], greets: bool
    ) -> None:
        starting: asyncio.Task[None] = self._app.state.starting
        await asyncio.wait({starting, serving}, return_when=asyncio.FIRST_COMPLETED)
        failure: BaseException | None = None
        if starting.done() and not starting.cancelled():
            failure = starting.exception()
            if failure is None:
                await self._begin(greets)
            else:
                server.should_exit = True
        await serving
        if isinstance(failure, StartupError):
            raise failure
        if failure is not None:
            raise StartupError(f"the engine did not start: {failure}")

    async def _begin(self, greets: bool) -> None:
        """Do what remains to be done when the engine has started."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reloader.begin)
        # Objects that exist now stay: without them, later collections are cheap. What a request
        # leaves behind is mostly freed without any: they need not look at requests in progress often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_OBJECTS_A_COLLECTION)
        if greets:
            _greet(self._settings, self._listeners, self._engine.models)
        if not await self._engine.ready():
            _log.warning(
                "the upstream does not answer: until it does, requests fail and /health/ready"
                " returns 503"
            )


def _stop_with(supervisor: int, server: "Server") -> None:
    """Stop `server` when its supervisor ends.

    Otherwise it would keep taking a share of the port's connections from any server that follows.
    """
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(supervisor)
        server.should_exit = True

    loop.add_reader(supervisor, stop)


def _engine(settings: Settings, telemetry: "Telemetry") -> "Engine":
    if settings.all_upstreams:
        from dedup_server.engines.upstream.engine import UpstreamEngine

        return UpstreamEngine(settings, telemetry)
    try:
        from dedup_server.engines.local.engine import DEMO_MODEL, LocalEngine
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in _LOCAL_PACKAGES:
            raise StartupError(
                f"a model in this process needs {error.name}:"
                ' pip install "dedup-llm[local]", or use --upstream URL'
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


def _greet(settings: Settings, listeners: Listeners, models: Sequence[str]) -> None:
    """Tell where the server listens, and a request to try."""
    url = _url(settings.host, listeners.public)
    upstreams = ", ".join(one.url for one in settings.all_upstreams)
    model = upstreams or settings.model or "the bundled demo model"
    admin_url = ""
    if listeners.admin is not None:
        admin_url = _url(settings.admin_host or settings.host, listeners.admin)
    if settings.log_format == "json":
        built = {"version": version(), "form": build_form()}
        _log.info("dedup listens", {"url": url, "admin_url": admin_url, "model": model, **built})
        return
    print(f"dedup listens on {url} (model: {model}; version {version()}, {build_form()})")
    if admin_url:
        print(f"metrics: {admin_url}/metrics; health: {admin_url}/health/ready")
    if build_form() == "interpreted":
        print(
            "the filter runs interpreted, two to three times slower:"
            " reinstall it where a C compiler and Python.h are available"
        )
    name = ""
    if settings.all_upstreams:
        name = f'"model": "{models[0] if models else "MODEL"}", '
    body = "{" + name + '"stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'
    curl = f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    print(f"try: {curl}", flush=True)


def _url(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
