"""Errors, with their HTTP status. The shape of an error's body belongs to each API."""

from collections.abc import Mapping
from typing import Any

_MAX_SHOWN = 50  # models in a message
_MAX_SHOWN_CHARS = 200


class StartupError(Exception):
    """Something the operator asked for cannot be; one line says what, and what to do."""


class ApiError(Exception):
    """A request that is refused, or fails.

    Args:
        status: The HTTP status.
        message: What is wrong.
        type: The kind of error, in OpenAI's words.
        param: The field of the request that is wrong.
        code: What is wrong, for programs.
        retry_after: Seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Return the body in OpenAI's shape."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def renamed(self, names: Mapping[str, str]) -> "ApiError":
        """Return the error with the field that is wrong under another name."""
        param = self.param
        if param is not None and param in names:
            self.param = names[param]
            self.message = self.message.replace(param, self.param, 1)
        return self


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, reason: str) -> ApiError:
    return ApiError(400, f"{param}: {reason}", param=param, code="unsupported_parameter")


def model_not_found(model: str, known: list[str]) -> ApiError:
    if len(model) > _MAX_SHOWN_CHARS:
        model = model[:_MAX_SHOWN_CHARS] + "..."
    shown = ", ".join(known[:_MAX_SHOWN])
    if len(known) > _MAX_SHOWN:
        shown += f" and {len(known) - _MAX_SHOWN} more"
    message = f"the model {model!r} does not exist; there is: {shown}"
    return ApiError(404, message, param="model", code="model_not_found")


def upstream_failed(message: str, status: int = 502) -> ApiError:
    return ApiError(status, message, type="upstream_error", code="upstream_error")


def not_ready(message: str) -> ApiError:
    return ApiError(503, message, type="server_error", code="not_ready", retry_after="1")


def shutting_down() -> ApiError:
    message = "the server is shutting down"
    return ApiError(503, message, type="server_error", code="shutting_down")


class UpstreamRefusalError(ApiError):
    """The upstream's own refusal: its status, and its error as it came."""

    def __init__(self, status: int, error: dict[str, Any], retry_after: str | None = None) -> None:
        message, kind = error.get("message"), error.get("type")
        if not isinstance(message, str):
            message = f"the upstream answered {status}"
        if not isinstance(kind, str):
            kind = "upstream_error"
        super().__init__(status, message, type=kind, retry_after=retry_after)
        self._error = {"message": message, "type": kind, "param": None, "code": None, **error}

    def body(self) -> dict[str, Any]:
        return {"error": self._error}
