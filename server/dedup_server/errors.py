"""What goes wrong, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from typing import Any


class StartupError(Exception):
    """Something the operator asked for cannot be; the message is one line that says what and what to do."""


class ApiError(Exception):
    """An answer other than 200."""

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
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, reason: str) -> ApiError:
    return ApiError(400, f"{param}: {reason}", param=param, code="unsupported_parameter")


def model_not_found(model: str, known: list[str]) -> ApiError:
    names = ", ".join(known)
    return ApiError(
        404,
        f"the model {model!r} does not exist; there is: {names}",
        param="model",
        code="model_not_found",
    )


def upstream_failed(message: str, status: int = 502) -> ApiError:
    return ApiError(status, message, type="upstream_error", code="upstream_error")


def shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", type="server_error", code="shutting_down")


class UpstreamRefusalError(ApiError):
    """The upstream's own refusal: its status, and its error as it came."""

    def __init__(self, status: int, error: dict[str, Any], retry_after: str | None = None) -> None:
        message, kind = error.get("message"), error.get("type")
        super().__init__(
            status,
            message if isinstance(message, str) else f"the upstream answered {status}",
            type=kind if isinstance(kind, str) else "upstream_error",
            retry_after=retry_after,
        )
        self._error = {
            "message": self.message,
            "type": self.type,
            "param": None,
            "code": None,
            **error,
        }

    def body(self) -> dict[str, Any]:
        return {"error": self._error}
