"""Reports of an answer: the `repetition` object, and whether a cut left something unusable."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dedup.answer.channel import Channel, Editing


def is_unusable(
    channels: Sequence[Channel], editing: Editing, open_calls: Sequence[Channel]
) -> bool:
    """Return whether no client may take what a cut left for complete.

    That is half a tool call, half of JSON, or reasoning without an answer.

    Args:
        channels: All texts of the choice.
        editing: How they are filtered.
        open_calls: Arguments of the tool calls that the engine had not ended.
    """
    cut = [channel for channel in channels if channel.is_cut]
    calls = [channel for channel in cut if channel.name == "tool_arguments"]
    if not all(channel.is_whole_json for channel in [*calls, *open_calls]):
        return True
    if editing.wants_json:
        contents = [channel for channel in cut if channel.name == "content"]
        if not all(channel.is_whole_json for channel in contents):
            return True
    return bool(cut) and all(channel.name == "reasoning" for channel in channels)


def has_calls(channels: Sequence[Channel]) -> bool:
    """Return whether any of the texts are arguments of a tool call."""
    return any(channel.name == "tool_arguments" for channel in channels)


def summary(policy: str, channels: Sequence[Channel]) -> dict[str, Any]:
    """Return the `repetition` object: the loop that ended the texts, and how much was removed."""
    measured = [channel for channel in channels if not channel.has_failed]
    report: dict[str, Any] = {}
    healed = [asdict(loop) for channel in measured for loop in channel.healed]
    if healed:
        report["healed"] = healed
    report["policy"] = policy
    if measured:
        report.update(measured[0].filter.requested.report())
    report["loop"] = None
    for channel in measured:
        if channel.is_cut and channel.loop:
            report["loop"] = {"channel": channel.name, **asdict(channel.loop)}
            break
    metrics = [channel.metrics() for channel in measured]
    report["removed_chars"] = int(sum([numbers["removed_chars"] for numbers in metrics]))
    report["removed_sentences"] = int(sum([numbers["sentences_removed"] for numbers in metrics]))
    return report
