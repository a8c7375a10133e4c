"""A filter of an answer's pieces: it gives what `RepetitionFilter` gives, part by part."""

import pytest

from dedup import RepetitionFilter
from dedup.answer.frame import ChannelName
from dedup.answer.pieces import AnswerFilter

NOVEL = "The river rose in the night, and by morning the bridge was gone. "
LOOP = "I am going round and round in circles here. "
STUTTER = "The boat was tied to the northern pier. A lamp burned in the office. "
STUTTER += "The boat was tied to the northern pier. Nobody was on deck."


def streamed(answer: AnswerFilter, channel: ChannelName, part: str, text: str) -> str:
    given = ""
    for at in range(0, len(text), 7):
        given += "".join(one.given for one in answer.feed(channel, part, text[at : at + 7]))
    return given


@pytest.mark.parametrize("text", [NOVEL, STUTTER, NOVEL + LOOP * 30])
def test_content(text: str) -> None:
    own = RepetitionFilter()
    wanted = own.feed(text) + own.flush()
    answer = AnswerFilter()
    given = streamed(answer, "content", "0", text)
    assert given + "".join(one.given for one in answer.flush()) == wanted
    assert answer.flush() == []
    assert AnswerFilter().whole([("content", "0", text, False)]) == {"0": wanted}
    assert (answer.report() is None) == (text == wanted)


def test_a_part_that_ends() -> None:
    """Text that a part held comes at its end, and not at the answer's."""
    answer = AnswerFilter()
    text = STUTTER[: STUTTER.rindex("northern")]
    given = streamed(answer, "content", "0", text)
    assert given != text
    assert given + "".join(one.given for one in answer.end("content", "0")) == text
    assert answer.flush() == []


def test_reasoning_that_loops() -> None:
    """A stream ends there, but a whole answer goes on behind it."""
    answer = AnswerFilter()
    assert streamed(answer, "reasoning", "0", NOVEL + LOOP * 30).startswith(NOVEL)
    assert (answer.is_over, answer.finish_reason) == (True, "length")
    assert answer.feed("content", "1", "Yes.") == []
    parts: list[tuple[ChannelName, str, str, bool]] = [
        ("reasoning", "0", NOVEL + LOOP * 30, False),
        ("content", "1", "Yes.", False),
    ]
    texts = AnswerFilter().whole(parts)
    assert texts["0"].startswith(NOVEL)
    assert len(texts["0"]) < len(NOVEL) + 3 * len(LOOP)
    assert texts["1"] == "Yes."


def test_reasoning_is_not_edited() -> None:
    """It may be signed; what is known to be signed is not even cut."""
    assert AnswerFilter().whole([("reasoning", "0", STUTTER, False)]) == {"0": STUTTER}
    looped = NOVEL + LOOP * 30
    assert AnswerFilter().whole([("reasoning", "0", looped, True)]) == {"0": looped}


def test_a_policy_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="policy"):
        AnswerFilter("gentle")  # type: ignore[arg-type]
