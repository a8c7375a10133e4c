"""The OpenAPI document, made from the very shapes that requests are checked against."""

from typing import Any

import msgspec

from dedup.version import version
from dedup_server.checking import CheckRequest
from dedup_server.endpoints import ENDPOINTS, Endpoint
from dedup_server.guardrail import PATH, GuardrailRequest
from dedup_server.requests.base import GenerationRequest

_ERROR = {"$ref": "#/components/schemas/Error"}
_ERROR_SHAPE = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "object", "properties": {"message": {"type": "string"}}}},
}


def document(*, is_local: bool, has_metrics: bool = True) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document.

    Args:
        is_local: Answers are sampled in this process: their requests are checked in full.
        has_metrics: `/metrics` is served at this port.
    """
    described: dict[str, Any] = {}
    for endpoint in ENDPOINTS.values():
        kind = endpoint.sampled if is_local else endpoint.forwarded
        described["/v1" + endpoint.path] = {"post": _generation(endpoint, kind)}
    described["/check"] = {
        "post": _posted(
            "Where a text repeats itself, and how much", "check", _shape_of(CheckRequest)
        )
    }
    described[PATH] = {
        "post": _posted("LiteLLM's generic guardrail API", "guardrail", _shape_of(GuardrailRequest))
    }
    described["/v1/models"] = {
        "get": _get("The models that can be asked for", "application/json", refusals=("401", "503"))
    }
    described["/health/live"] = {"get": _get("Whether the process runs", "application/json")}
    described["/health/ready"] = {
        "get": _get(
            "Whether a request would be answered now", "application/json", refusals=("503",)
        )
    }
    if has_metrics:
        described["/metrics"] = {"get": _get("Prometheus metrics", "text/plain")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "dedup", "version": version()},
        "paths": described,
        "components": {
            "schemas": {"Error": _ERROR_SHAPE},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _generation(endpoint: Endpoint, kind: type[GenerationRequest]) -> dict[str, Any]:
    template = "#/components/schemas/{model}"
    shape = kind.model_json_schema(ref_template=template, mode="validation")
    return _posted(endpoint.summary, endpoint.name, _inlined(shape), {"text/event-stream": {}})


def _shape_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return _inlined(msgspec.json.schema(kind))


def _posted(
    summary: str, name: str, shape: dict[str, Any], streamed: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": name,
        "requestBody": {"required": True, "content": {"application/json": {"schema": shape}}},
        "responses": {
            "200": {
                "description": "The answer",
                "content": {"application/json": {"schema": {"type": "object"}}, **(streamed or {})},
            },
            "default": {
                "description": "What is wrong",
                "content": {"application/json": {"schema": _ERROR}},
            },
        },
    }


def _get(summary: str, media_type: str, refusals: tuple[str, ...] = ()) -> dict[str, Any]:
    kind = "string" if media_type == "text/plain" else "object"
    refused = {
        "description": "Not now, or not to you",
        "content": {"application/json": {"schema": _ERROR}},
    }
    return {
        "summary": summary,
        "responses": {
            "200": {
                "description": "The answer",
                "content": {media_type: {"schema": {"type": kind}}},
            },
            **dict.fromkeys(refusals, refused),
        },
    }


def _inlined(shape: dict[str, Any]) -> dict[str, Any]:
    """`shape` with its definitions in the places that refer to them."""
    definitions = shape.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inline(definitions[value["$ref"].rpartition("/")[2]])
            return {name: inline(item) for name, item in value.items()}
        return [inline(item) for item in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = inline(shape)
    return inlined
