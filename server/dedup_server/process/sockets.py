"""Listening sockets, and the limit of open files."""

import resource
import socket
from dataclasses import dataclass

from dedup_server.errors import StartupError
from dedup_server.settings import Settings

_BACKLOG = 2048
_SPARE_FILES = 128  # open files that are no streams
_FILES_PER_STREAM = 2
_MIN_STREAMS = 16


@dataclass(frozen=True, slots=True)
class Listeners:
    """Sockets on which one process serves."""

    public: socket.socket
    admin: socket.socket | None

    def close(self) -> None:
        self.public.close()
        if self.admin is not None:
            self.admin.close()


def listen(settings: Settings) -> list[Listeners]:
    """Return the sockets of each worker.

    Raises:
        StartupError: an address cannot be used.
    """
    public = _listen(
        settings.host,
        settings.port,
        settings.workers,
        "--port",
        is_open=not settings.opens_when_ready,
    )
    if settings.admin_port is None:
        return [Listeners(one, None) for one in public]
    host = settings.admin_host or settings.host
    try:
        admin = _listen(host, settings.admin_port, settings.workers, "--admin-port", is_open=True)
    except StartupError:
        for one in public:
            one.close()
        raise
    return [Listeners(*both) for both in zip(public, admin, strict=True)]


def _listen(
    host: str, port: int, num_listeners: int, flag: str, *, is_open: bool
) -> list[socket.socket]:
    """Return sockets bound to one address, among which the system divides the connections.

    Args:
        is_open: a single socket listens at once. Others listen when their process does.

    Raises:
        StartupError: the address cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise StartupError(f"cannot listen on {host}: {error.strerror or error}") from None
    is_shared = num_listeners > 1
    listeners: list[socket.socket] = []
    try:
        # With SO_REUSEPORT alone, another server on the port would go unnoticed.
        with _bound(family, address, is_shared=False) as probe:
            address = probe.getsockname()
            probe.listen(1)
        for _ in range(num_listeners):
            listeners.append(_bound(family, address, is_shared))
        if is_open and not is_shared:
            listeners[0].listen(_BACKLOG)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise StartupError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with {flag}"
        ) from None
    return listeners


def _bound(family: int, address: object, is_shared: bool) -> socket.socket:
    """Return a socket bound to `address`. Raise OSError if that is not possible."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)  # type: ignore[arg-type]
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


def raise_file_limit() -> None:
    """Raise the limit of open files as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def with_stream_limit(settings: Settings) -> Settings:
    """Return `settings` with a limit of streams.

    Beyond the limit of open files, connections would fail one by one without a reason.
    """
    if settings.max_streams is not None:
        return settings
    max_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    max_streams = max(_MIN_STREAMS, (max_files - _SPARE_FILES) // _FILES_PER_STREAM)
    return settings.model_copy(update={"max_streams": max_streams})
