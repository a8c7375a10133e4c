"""Loops in outputs that arrive as tokens."""

from dedup.text.loops.detector import LoopDetector
from dedup.token_loops import TokenLoopDetector

TEXT = "It was late. " + "The clock struck twelve, and nobody came to the door. " * 6


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(map(chr, tokens))


def test_it_reads_what_the_tokens_decode_to() -> None:
    detector, text = TokenLoopDetector(Letters()), LoopDetector()
    for letter in TEXT:
        assert detector.feed(ord(letter)) == text.feed(letter)
    assert detector.event
    assert detector.tokens == list(map(ord, TEXT))


def test_an_output_given_whole() -> None:
    tokens = list(map(ord, TEXT))
    detector, fed = TokenLoopDetector(Letters()), TokenLoopDetector(Letters())
    for size in range(1, len(tokens) + 1):
        assert detector.follow(tokens[:size]) == fed.feed(tokens[size - 1])
    assert detector.event
    assert detector.follow(tokens[:20]) is None  # another output
    assert detector.tokens == tokens[:20]
    assert detector.follow([*tokens[:9], 1]) is None
    assert detector.tokens == [*tokens[:9], 1]
