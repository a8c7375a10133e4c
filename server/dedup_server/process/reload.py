"""Reload of the settings while requests are in progress."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from dedup_server.process.sockets import with_stream_limit
from dedup_server.settings import Settings, SettingsError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from dedup_server.telemetry import Telemetry

_log = logging.getLogger("dedup.server")

# Settings that are used when the process starts, and only then.
_FIXED = (
    "host",
    "port",
    "admin_host",
    "admin_port",
    "workers",
    "model",
    "model_name",
    "device",
    "dtype",
    "max_concurrent",
    "cors_origins",
    "forwarded_paths",
    "forwarded_allow_ips",
    "log_format",
    "trust_remote_code",
    "max_header_bytes",
    "header_timeout_seconds",
    "shutdown_delay_seconds",
    "grace_seconds",
)


class Reloader:
    """Replacement of the settings in force.

    Requests in progress end under the settings they began with. Invalid settings change nothing.

    Args:
        app: the application whose service is replaced.
        load: reads the settings.
        telemetry: of all services, old and new.
    """

    def __init__(
        self, app: "FastAPI", load: Callable[[], Settings], telemetry: "Telemetry"
    ) -> None:
        self._app = app
        self._load = load
        self._telemetry = telemetry
        self._reloading: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Reload, unless a reload is in progress. This is the handler of SIGHUP."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        from dedup_server.app import Service
        from dedup_server.engines.upstream.engine import UpstreamEngine

        old: Service = self._app.state.service
        try:
            settings = self._settings_after(old.settings)
        except SettingsError as error:
            _log.error("not reloaded: %s", error)
            return
        engine = old.engine
        if settings.all_upstreams:
            engine = UpstreamEngine(settings, self._telemetry)
            await engine.start()
        old.streams.max_streams = settings.max_streams
        self._app.state.service = Service(settings, engine, old.streams)
        if engine is not old.engine:
            await old.engine.stop()
        _log.info("reloaded")

    def _settings_after(self, old: Settings) -> Settings:
        """Return the settings that replace `old`.

        Raises:
            SettingsError: they are invalid, or need another kind of engine.
        """
        settings = self._load()
        if bool(settings.all_upstreams) != bool(old.all_upstreams):
            raise SettingsError(
                "a switch between a model in this process and an upstream requires a restart"
            )
        for name in _FIXED:
            if getattr(settings, name) != getattr(old, name):
                _log.warning("a change of %s requires a restart", name)
        return with_stream_limit(settings)
