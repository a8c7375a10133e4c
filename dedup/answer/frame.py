"""Typed deltas: what an engine generates, without the form that an API gives it."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

ChannelName = Literal["content", "reasoning", "tool_arguments"]

CONTENT: Final = "content"


class Delta:
    """The next piece of one text of a choice.

    Args:
        choice: Index of the choice.
        channel: The kind of text.
        part: Which of the choice's texts, under a name that the text keeps.
        text: What was generated; empty where only `ends` or `tool` says something.
        ends: The text ends with this piece.
        is_locked: The text is signed: it may be measured, but not changed.
        tool: `(id, name)` of a tool call, with the first piece of its arguments.
        logprobs: Log-probabilities of the piece's tokens, in the engine's own form.

    Attributes:
        given: What of the text the reader gets now. `Answer.feed` sets it.
        num_pieces: The pieces that the engine made of it; more than one where a codec joined some.
    """

    def __init__(
        self,
        choice: int,
        channel: ChannelName,
        part: str,
        text: str,
        *,
        ends: bool = False,
        is_locked: bool = False,
        tool: tuple[str, str] | None = None,
        logprobs: Any = None,
    ) -> None:
        self.choice = choice
        self.channel: ChannelName = channel
        self.part = part
        self.text = text
        self.given = text
        self.num_pieces = 1
        self.ends = ends
        self.is_locked = is_locked
        self.tool = tool
        self.logprobs = logprobs


class Finish:
    """The end of a choice.

    Args:
        choice: Index of the choice.
        reason: The engine's finish reason; None where the choice ends at a loop before the engine
            has given one.
        is_cut: The choice ends at a loop.
    """

    def __init__(self, choice: int, reason: str | None, *, is_cut: bool = False) -> None:
        self.choice = choice
        self.reason = reason
        self.is_cut = is_cut


@dataclass(frozen=True, slots=True)
class Start:
    """The beginning of an answer that an engine in this process generates.

    Args:
        model: Name of the model.
        num_choices: Number of choices that will come.
        extra: Fields that every event of the answer carries.
    """

    model: str
    num_choices: int
    extra: dict[str, Any] = field(default_factory=dict)


class CallStart:
    """A tool call that begins, or is whole, in a frame.

    Args:
        choice: Index of the choice.
        part: The text with its arguments; see `Delta.part`.
        name: Name of the tool.
        arguments: The decoded arguments of a whole call; None where deltas of `part` have them.
    """

    def __init__(self, choice: int, part: str, name: str, arguments: Any = None) -> None:
        self.choice = choice
        self.part = part
        self.name = name
        self.arguments = arguments


class Frame:
    """A unit that an engine sends: a chunk, an event, or a whole body.

    Args:
        deltas: Pieces of text.
        finishes: Choices that end with the frame.
        source: What a codec read the frame from, for that codec to write it again; None where an
            engine in this process made it.
        start: The first frame of an engine in this process says what will come.
        input_tokens, output_tokens: Counts so far, where the engine reports them.
        is_last: The answer is complete: a stream that ends without such a frame has failed.
        has_failed: The engine reports, in the API's own form, that it failed.
        is_whole: It is all of a body that was not streamed.
        error: What went wrong, where nothing follows that can be read.
        calls: Tool calls that begin in the frame and have no `Delta.tool`.
    """

    def __init__(
        self,
        deltas: list[Delta],
        finishes: list[Finish] | None = None,
        source: object = None,
        *,
        start: Start | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        is_last: bool = False,
        has_failed: bool = False,
        is_whole: bool = False,
        error: Exception | None = None,
        calls: list[CallStart] | None = None,
    ) -> None:
        self.deltas = deltas
        self.finishes = finishes
        self.source = source
        self.start = start
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.is_last = is_last
        self.has_failed = has_failed
        self.is_whole = is_whole
        self.error = error
        self.calls = calls


class Decision:
    """Decision on a frame.

    Args:
        before: Held text that is released ahead of the frame.
        after: What follows the frame: held text, and the ends of choices that loop.
        dropped: Choices whose part of the frame does not reach the reader.
        is_changed: The reader gets anything else than the frame as it came.
    """

    def __init__(
        self,
        before: list[Delta],
        after: "list[Delta | Finish]",
        dropped: list[int],
        *,
        is_changed: bool,
    ) -> None:
        self.before = before
        self.after = after
        self.dropped = dropped
        self.is_changed = is_changed

    def ends(self, frame: Frame) -> list[Finish]:
        """Return the ends of choices that the reader is told of, with the frame or behind it."""
        told = [finish for finish in frame.finishes or () if finish.choice not in self.dropped]
        return told + [piece for piece in self.after if isinstance(piece, Finish)]


UNCHANGED: Final = Decision([], [], [], is_changed=False)
