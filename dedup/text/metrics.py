"""How much a text repeats itself. Each metric's definition, as its paper gives it, stands above it.

Units are what `dedup.text.words.units` gives: folded words, and single characters of scripts written without spaces. Shares lie in
[0, 1]; of an empty text every share of repetition is 0 and every share of distinctness 1.
"""

import re
import zlib
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import islice
from typing import Final

from dedup.text.pieces import Pieces
from dedup.text.segmenter import segments_of
from dedup.text.words import UnitStream, sentence_key, units

_PARAGRAPH: Final = re.compile(r"\n{2,}")


def ngrams(tokens: Sequence[Hashable], n: int) -> Iterable[tuple[Hashable, ...]]:
    """The n-grams of `tokens`, in order."""
    return zip(*[islice(tokens, start, None) for start in range(n)], strict=False)


def distinct_n(tokens: Sequence[Hashable], n: int) -> float:
    """Distinct n-grams over all n-grams (Li et al. 2016, arXiv 1510.03055)."""
    total = len(tokens) - n + 1
    return len(set(ngrams(tokens, n))) / total if total > 0 else 1.0


def rep_n(tokens: Sequence[Hashable], n: int) -> float:
    """1 - distinct n-grams / all n-grams (Su et al. 2022, arXiv 2202.06417, as a share; for one sequence it is also
    seq-rep-n of Welleck et al. 2019, arXiv 1908.04319)."""
    return 1.0 - distinct_n(tokens, n)


def seq_rep_n(sequences: Sequence[Sequence[Hashable]], n: int) -> float:
    """The mean over generated sequences of 1 - distinct n-grams / all n-grams (Welleck et al. 2019, arXiv 1908.04319)."""
    return sum(rep_n(sequence, n) for sequence in sequences) / len(sequences) if sequences else 0.0


def rep_w(tokens: Sequence[Hashable], w: int = 16) -> float:
    """Share of tokens that stand among the w tokens before them (rep-w of Fu et al. 2021, arXiv 2012.14660)."""
    recent: Counter[Hashable] = Counter()
    window: deque[Hashable] = deque()
    repeated = 0
    for token in tokens:
        repeated += recent[token] > 0
        recent[token] += 1
        window.append(token)
        if len(window) > w:
            recent[window.popleft()] -= 1
    return repeated / len(tokens) if tokens else 0.0


def diversity(tokens: Sequence[Hashable]) -> float:
    """The product of 1 - rep-n for n from 2 to 4 (Su et al. 2022, arXiv 2202.06417)."""
    return distinct_n(tokens, 2) * distinct_n(tokens, 3) * distinct_n(tokens, 4)


def duplicate_share(items: Sequence[str]) -> float:
    """Share of the items (lines, paragraphs, sentences) that say what an earlier one said (Rae et al. 2021, table A1)."""
    return 1.0 - len(set(items)) / len(items) if items else 0.0


def duplicate_char_share(items: Sequence[str]) -> float:
    """Share of the characters in items that say what an earlier one said (Rae et al. 2021, table A1)."""
    chars = sum(map(len, items))
    return 1.0 - sum(map(len, set(items))) / chars if chars else 0.0


def top_ngram_char_share(tokens: Sequence[str], n: int) -> float:
    """Share of the characters that the most frequent n-gram covers; of several, the first (Rae et al. 2021, table A1; n from 2 to 4).

    An n-gram that occurs once covers nothing.
    """
    counts = Counter(ngrams(tokens, n))
    chars = sum(map(len, tokens))
    if not counts or not chars:
        return 0.0
    gram, count = counts.most_common(1)[0]
    return min(1.0, count * sum(len(str(token)) for token in gram) / chars) if count > 1 else 0.0


def duplicate_ngram_char_share(tokens: Sequence[str], n: int) -> float:
    """Share of the characters in n-grams that occurred before, each character counted once (Rae et al. 2021, table A1; n 5 to 10)."""
    seen: set[tuple[Hashable, ...]] = set()
    covered = 0
    until = 0  # tokens before this index are counted
    for start, gram in enumerate(ngrams(tokens, n)):
        if start < until:
            continue
        if gram in seen:
            covered += sum(map(len, tokens[start : start + n]))
            until = start + n
        seen.add(gram)
    chars = sum(map(len, tokens))
    return covered / chars if chars else 0.0


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of its zlib compression, as Whisper judges a decoding (Radford et al. 2022, arXiv 2212.04356)."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data) / len(zlib.compress(data)) if data else 1.0


def self_bleu(texts: Sequence[str], n: int = 4) -> float:
    """Mean BLEU of each text with all others as references: high means the texts resemble each other (Zhu et al. 2018,
    arXiv 1802.01886). nltk's BLEU with its smoothing method 1. Of fewer than two texts: 0."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    tokenized = [units(text) for text in texts]
    if len(tokenized) < 2:
        return 0.0
    smooth = SmoothingFunction().method1
    weights = (1 / n,) * n
    scores = [
        float(
            sentence_bleu(
                tokenized[:i] + tokenized[i + 1 :], tokens, weights, smoothing_function=smooth
            )
        )
        for i, tokens in enumerate(tokenized)
    ]
    return sum(scores) / len(scores)


class RepetitionCounter:
    """rep-n of a sequence that grows. Exact up to `max_ngrams` distinct n-grams; of those beyond, repeats are not noticed."""

    def __init__(self, n: int = 4, max_ngrams: int = 16_384) -> None:
        self._n = n
        self._max = max_ngrams
        self._seen: set[int] = set()
        self._last: list[Hashable] = []
        self._total = self._repeated = 0

    def append(self, tokens: Iterable[Hashable]) -> None:
        tokens = [*self._last, *tokens]
        self._last = tokens[max(0, len(tokens) - self._n + 1) :]
        grams = list(map(hash, ngrams(tokens, self._n)))
        self._total += len(grams)
        at = 0
        while at < len(grams) and (room := self._max - len(self._seen)):
            block = grams[at : at + room]
            num_seen = len(self._seen)
            self._seen.update(block)
            self._repeated += len(block) - (len(self._seen) - num_seen)
            at += len(block)
        self._repeated += sum(map(self._seen.__contains__, grams[at:]))

    @property
    def rep(self) -> float:
        return self._repeated / self._total if self._total else 0.0


class RepetitionMeter:
    """rep-4 of a text that comes in deltas. Counting can wait until there is a block of text, or somebody asks."""

    BLOCK_CHARS = 16_384

    def __init__(self) -> None:
        self._counter = RepetitionCounter(4)
        self._units = UnitStream()
        self._uncounted = Pieces()

    def feed(self, delta: str) -> None:
        self._uncounted.append(delta)
        if self._uncounted.size >= self.BLOCK_CHARS:
            self._counter.append(self._units.feed(self._uncounted.take()))

    def flush(self) -> None:
        """No more text will come: the last word is whole."""
        self._counter.append(self._units.feed(self._uncounted.take()))
        self._counter.append(self._units.flush())

    @property
    def rep(self) -> float:
        self._counter.append(self._units.feed(self._uncounted.take()))
        return self._counter.rep


def repetition_metrics(text: str) -> dict[str, float]:
    """Return what `dedup score` prints of a text. Sentences are the filter's segments, without their markers."""
    tokens = units(text)
    lines = [key for line in text.split("\n") if (key := sentence_key(line))]
    paragraphs = [key for paragraph in _PARAGRAPH.split(text) if (key := sentence_key(paragraph))]
    sentences = [
        key
        for segment in segments_of(text)
        if (key := sentence_key(segment.text[segment.marker_chars :]))
    ]
    return {
        "chars": len(text),
        "units": len(tokens),
        **{f"rep_{n}": rep_n(tokens, n) for n in (1, 2, 3, 4)},
        "rep_w": rep_w(tokens),
        "distinct_1": distinct_n(tokens, 1),
        "distinct_2": distinct_n(tokens, 2),
        "diversity": diversity(tokens),
        "duplicate_sentences": duplicate_share(sentences),
        "duplicate_lines": duplicate_share(lines),
        "duplicate_line_chars": duplicate_char_share(lines),
        "duplicate_paragraphs": duplicate_share(paragraphs),
        "duplicate_paragraph_chars": duplicate_char_share(paragraphs),
        **{f"top_{n}gram_chars": top_ngram_char_share(tokens, n) for n in (2, 3, 4)},
        **{f"duplicate_{n}gram_chars": duplicate_ngram_char_share(tokens, n) for n in range(5, 11)},
        "compression_ratio": compression_ratio(text),
    }
