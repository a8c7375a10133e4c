"""JSON as servers really send it: invalid UTF-8 and lone surrogates are read, and written back, without an error."""

import json
from typing import Any, Final

import msgspec

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


def read_json(data: bytes) -> Any:
    """Decode `data`. Invalid UTF-8 becomes U+FFFD; a lone surrogate, which some servers send, is kept.

    Raises:
        ValueError: `data` is not JSON, or is nested too deeply.
    """
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def as_text(data: bytes) -> bytes:
    """`data`, with U+FFFD for bytes that are no UTF-8: clients give up on those."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace").encode()
    return data


def write_json(value: Any) -> bytes:
    """JSON on one line."""
    try:
        return _encode(value)
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(value, separators=(",", ":")).encode()
