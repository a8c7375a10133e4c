"""Writes the `repetition` object of an answer: what was taken out of it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from dedup_server.channel import Channel, Editing


def is_unusable(
    channels: Sequence[Channel], editing: Editing, open_calls: Iterable[Channel]
) -> bool:
    """Return whether a cut left something that no client may take for complete: half a tool call, half of JSON, thoughts and no answer.

    open_calls: the arguments of the tool calls that the engine had not ended.
    """
    cut = [channel for channel in channels if channel.cut]
    calls = [channel for channel in cut if channel.name == "tool_arguments"]
    if not all(channel.is_whole_json for channel in (*calls, *open_calls)):
        return True
    if editing.wants_json and not all(
        channel.is_whole_json for channel in cut if channel.name == "content"
    ):
        return True
    return bool(cut) and all(channel.name == "reasoning" for channel in channels)


def has_calls(channels: Iterable[Channel]) -> bool:
    return any(channel.name == "tool_arguments" for channel in channels)


def summary(policy: str, channels: Sequence[Channel]) -> dict[str, Any]:
    """The `repetition` object of an answer: the loop that ended it, if one did, and how much is gone from all its texts."""
    measured = [channel for channel in channels if not channel.failed]
    looping = next((channel for channel in measured if channel.cut), None)
    loop = None
    if looping and looping.filter.loop:
        loop = {"channel": looping.name, **asdict(looping.filter.loop)}
    healed = [loop for channel in measured for loop in channel.healed]
    allowed = measured[0].filter.requested.report() if measured else {}
    return {
        **({"healed": [asdict(loop) for loop in healed]} if healed else {}),
        "policy": policy,
        **allowed,
        "loop": loop,
        "removed_chars": sum(
            int(channel.filter.metrics()["removed_chars"]) for channel in measured
        ),
        "removed_sentences": sum(channel.filter.sentences_removed for channel in measured),
    }
