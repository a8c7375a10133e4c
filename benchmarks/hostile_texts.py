"""Is there a text that takes the filter more than linear time?

    python benchmarks/hostile_texts.py                     # 0.1 and 0.4 MB of each kind, as an answer and as a prompt
    python benchmarks/hostile_texts.py --chars 1000000

Each kind aims at a rule: runs of one character, unclosed marks, lists, tables, numbers, words that almost
repeat, indentation that grows. CPU seconds; `ratio` is of four times the text, so 4 is linear. Loops are
skipped, not cut, so that all of a text is read.
"""

import argparse
import random
import time
from collections.abc import Callable

from dedup import FilterConfig, RepetitionFilter, repetition_metrics

BLOCK_CHARS = 2048


def _repeated(unit: str) -> Callable[[int], str]:
    return lambda size: (unit * (size // len(unit) + 1))[:size]


def _joined(part: Callable[[int, random.Random], str]) -> Callable[[int], str]:
    """Return the maker of a text of parts, numbered, with random numbers at hand."""

    def make(size: int) -> str:
        rng, parts, length = random.Random(1), [], 0
        while length < size:
            parts.append(part(len(parts), rng))
            length += len(parts[-1])
        return "".join(parts)[:size]

    return make


def _fibonacci(size: int) -> str:
    short, long = "a", "ab"
    while len(long) < size:
        short, long = long, long + short
    return long[:size]


def _thue_morse(size: int) -> str:
    text = "a"
    while len(text) < size:
        text += text.translate({97: 98, 98: 97})
    return text[:size]


UNITS = (
    "a", " ", "\n", "\t", "\r", ".", ". ", "`", "` ", "```\n", "~~~\n", "|", "|\n", "| a | b |\n", "[", "{", '{"a":', '"', '" ',
    "1", "1.", "1,", "1. \n", "-", "- ", "*", "#", ">", "> ", "好", "“", "。", "\u0301", "👩\u200d", "\u00a0", "<", "<a ", "/a", "_",
    "U.S.", "ab ", "(", "(a) ", "'\"", "— ", "…", '{"a": 1}\n', "a: ", "iv. ", "abc\n", "write it 50 times ", 'repeat "a" 99 times, ',
    "重复五十遍", "hundred thousand ", "一百万零",
)  # fmt: skip
KINDS: dict[str, Callable[[int], str]] = {
    **{repr(unit): _repeated(unit) for unit in UNITS},
    "spaces, then a word": lambda size: " " * (size - 1) + "a",
    "an open fence": lambda size: "```\n" + _repeated("abc\n")(size - 4),
    "random words": _joined(lambda _, rng: f"{rng.getrandbits(24):x} "),
    "random sentences": _joined(lambda _, rng: f"Ab{rng.getrandbits(24):x} cd{rng.random()}. "),
    "random base64": _joined(lambda _, rng: rng.choice("ABCDEFGHIJabcdefghij0123456789+/")),
    "three random words": _joined(lambda _, rng: rng.choice(("a ", "b ", "c "))),
    "sentences that almost repeat": _joined(
        lambda _, rng: f"The value of item {rng.randrange(10**6)} is what the table says here. "
    ),
    "lines that almost repeat": _joined(lambda number, _: f"line {number} of the log\n"),
    "sentences that grow": _joined(lambda number, _: "word " * number + f"end{number}. "),
    "indentation that grows": _joined(lambda number, _: " " * number + "x\n"),
    "a long period": lambda size: _repeated(KINDS["random words"](4096))(size),
    "Fibonacci word": _fibonacci,
    "Thue-Morse word": _thue_morse,
}


def as_answer(text: str) -> None:
    """Filter a text and measure its repetition, as the server does for an answer."""
    text_filter = RepetitionFilter(FilterConfig(policy="strict", on_loop="skip"))
    for at in range(0, len(text), BLOCK_CHARS):
        text_filter.feed(text[at : at + BLOCK_CHARS])
    text_filter.flush()
    text_filter.metrics()


def as_prompt(text: str) -> None:
    """Read a text as a prompt that an answer follows."""
    text_filter = RepetitionFilter(FilterConfig(), prompt=text)
    text_filter.feed("The river rose in the night. Nobody slept. " * 8)
    text_filter.flush()


ROLES = {"answer": as_answer, "prompt": as_prompt, "check": repetition_metrics}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--chars", type=int, default=400_000)
    asked = parser.parse_args()
    worst: dict[str, tuple[float, str]] = {}
    for kind, make in KINDS.items():
        for role, read in ROLES.items():
            seconds = []
            for size in (asked.chars // 4, asked.chars):
                text = make(size)
                began = time.process_time()
                read(text)
                seconds.append(time.process_time() - began)
            ratio = seconds[1] / max(seconds[0], 1e-3)
            print(f"{role:7} {kind:32} {seconds[0]:7.3f} {seconds[1]:7.3f}   ratio {ratio:.1f}")
            worst[role] = max(worst.get(role, (0.0, "")), (seconds[1], kind))
    for role, (slowest, kind) in worst.items():
        print(f"slowest {role}: {kind}, {slowest:.2f} s, {asked.chars / slowest / 1e6:.2f} MB/s")


if __name__ == "__main__":
    main()
