"""What an answer says of the repetition taken out of it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from server.channel import Channel, Editing


def is_unusable(channels: Sequence[Channel], editing: Editing, call_is_open: bool) -> bool:
    """Whether a cut left something that no client may take for complete: half a tool call, half of JSON, thoughts and no answer."""
    names = {channel.name for channel in channels}
    cut_names = {channel.name for channel in channels if channel.cut}
    if "tool_arguments" in cut_names or call_is_open:
        return True
    return ("reasoning" in cut_names and names == {"reasoning"}) or ("content" in cut_names and editing.wants_json)


def summary(policy: str, channels: Sequence[Channel]) -> dict[str, Any]:
    """The `repetition` object of an answer: the loop that ended it, if one did, and how much is gone from all its texts."""
    measured = [channel for channel in channels if not channel.failed]
    looping = next((channel for channel in measured if channel.cut), None)
    loop = None
    if looping and looping.filter.loop:
        loop = {"channel": looping.name, **asdict(looping.filter.loop)}
    healed = [loop for channel in measured for loop in channel.healed]
    return {
        **({"healed": [asdict(loop) for loop in healed]} if healed else {}),
        "policy": policy,
        "loop": loop,
        "removed_chars": sum(int(channel.filter.metrics()["removed_chars"]) for channel in measured),
        "removed_sentences": sum(channel.filter.sentences_removed for channel in measured),
    }
