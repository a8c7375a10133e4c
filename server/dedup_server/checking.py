"""`POST /check`: shows how a text repeats itself, and what the filter would remove.

    python -m dedup_server.checking < request.json > answer.json

is how the server checks a long text: in a process of its own, because compiled code lets no other
thread run until it is done.
"""

import asyncio
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any

import msgspec

from dedup.config import FilterConfig, OnLoop, Policy
from dedup.text.filter import RepetitionFilter
from dedup.text.metrics import repetition_metrics
from dedup.text.segmenter import segments_of
from dedup.text.words import sentence_key
from dedup_server.errors import ApiError, invalid

MAX_CHARS = 1_000_000
_SHORT_CHARS = 10_000  # checked in some 20 ms, which a process would take to start
_BLOCK_CHARS = 2048
_COMMAND = (sys.executable, "-m", "dedup_server.checking")


class CheckRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """policy: None is the server's. on_loop: see `FilterConfig`. prompt: what the text answers, if it is an answer."""

    text: str
    policy: Policy | None = None
    on_loop: OnLoop = "cut"
    prompt: str | None = None


_decode = msgspec.json.Decoder(CheckRequest).decode
_encode = msgspec.json.Encoder().encode


def read_check(body: bytes, policy: Policy) -> CheckRequest:
    """The request in `body`, with the policy to use where it names none. Raises `ApiError` (400, 413)."""
    try:
        request = _decode(body)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise invalid(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if len(request.text) > MAX_CHARS:
        raise ApiError(
            413,
            f"the text is longer than {MAX_CHARS} characters; `dedup score` reads longer ones",
            code="text_too_long",
        )
    return msgspec.structs.replace(request, policy=request.policy or policy)


async def answer(request: CheckRequest) -> bytes:
    """Return the answer to a request that `read_check` gave, as JSON. Cancelled, it ends the process that it started."""
    if len(request.text) <= _SHORT_CHARS:
        return await asyncio.to_thread(lambda: _encode(check(request)))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*_COMMAND, stdin=pipe, stdout=pipe)
    try:
        body, _ = await process.communicate(_encode(request))
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"the check ended with {process.returncode}")
    return body


def check(request: CheckRequest) -> dict[str, Any]:
    """All offsets count characters (code points) of the text."""
    text, policy = request.text, request.policy or "balanced"
    text_filter = RepetitionFilter(
        FilterConfig(policy=policy, on_loop=request.on_loop), prompt=request.prompt
    )
    for at in range(0, len(text), _BLOCK_CHARS):
        text_filter.feed(text[at : at + _BLOCK_CHARS])
    text_filter.flush()
    return {
        "policy": policy,
        "chars": len(text),
        "removed_chars": int(text_filter.metrics()["removed_chars"]),
        **text_filter.requested.report(),
        "loop": asdict(text_filter.loop) if text_filter.loop else None,
        "removed": [asdict(removal) for removal in text_filter.removed],
        "sentences": _sentences(text),
        "metrics": repetition_metrics(text),
    }


def _sentences(text: str) -> list[dict[str, int | None]]:
    """The sentences, lines and items of the text; those that say the same, word for word, are of one group, numbered from 0."""
    spans: list[tuple[int, int, str]] = []
    start = 0
    for segment in segments_of(text):
        spans.append(
            (start, start + len(segment.text), sentence_key(segment.text[segment.marker_chars :]))
        )
        start += len(segment.text) + len(segment.separator)
    times = Counter(key for _, _, key in spans if key)
    groups = {
        key: number for number, key in enumerate(key for key, count in times.items() if count > 1)
    }
    return [{"start": start, "end": end, "group": groups.get(key)} for start, end, key in spans]


if __name__ == "__main__":
    sys.stdout.buffer.write(_encode(check(_decode(sys.stdin.buffer.read()))))
