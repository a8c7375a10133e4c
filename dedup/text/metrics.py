"""Metrics of repetition, each as its paper defines it.

Units are those of `dedup.text.words.units`: folded words, and single characters of scripts written
without spaces. Shares are in [0, 1]. For an empty text shares of repetition are 0, shares of
distinctness 1.
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
    """Return the n-grams of `tokens`, in order."""
    return zip(*[islice(tokens, start, None) for start in range(n)], strict=False)


def distinct_n(tokens: Sequence[Hashable], n: int) -> float:
    """Return distinct-n: distinct n-grams over all n-grams (Li et al. 2016, arXiv 1510.03055)."""
    total = len(tokens) - n + 1
    if total <= 0:
        return 1.0
    return len(set(ngrams(tokens, n))) / total


def rep_n(tokens: Sequence[Hashable], n: int) -> float:
    """Return rep-n: 1 - distinct n-grams / all n-grams, a share (Su et al. 2022, arXiv 2202.06417).

    For one sequence it equals seq-rep-n of Welleck et al. 2019 (arXiv 1908.04319).
    """
    return 1.0 - distinct_n(tokens, n)


def seq_rep_n(sequences: Sequence[Sequence[Hashable]], n: int) -> float:
    """Return seq-rep-n: the mean rep-n of sequences (Welleck et al. 2019, arXiv 1908.04319)."""
    if not sequences:
        return 0.0
    return sum(rep_n(sequence, n) for sequence in sequences) / len(sequences)


def rep_w(tokens: Sequence[Hashable], w: int = 16) -> float:
    """Return rep-w: the share of tokens that occur among the w tokens before them.

    Source: Fu et al. 2021, arXiv 2012.14660.
    """
    recent: Counter[Hashable] = Counter()
    window: deque[Hashable] = deque()
    repeated = 0
    for token in tokens:
        repeated += recent[token] > 0
        recent[token] += 1
        window.append(token)
        if len(window) > w:
            recent[window.popleft()] -= 1
    return repeated / max(1, len(tokens))


def diversity(tokens: Sequence[Hashable]) -> float:
    """Return the product of 1 - rep-n for n from 2 to 4 (Su et al. 2022, arXiv 2202.06417)."""
    return distinct_n(tokens, 2) * distinct_n(tokens, 3) * distinct_n(tokens, 4)


def duplicate_share(items: Sequence[str]) -> float:
    """Return the share of items (lines, paragraphs, sentences) equal to an earlier one.

    Source: Rae et al. 2021, table A1.
    """
    if not items:
        return 0.0
    return 1.0 - len(set(items)) / len(items)


def duplicate_char_share(items: Sequence[str]) -> float:
    """Return the share of characters in items equal to an earlier one.

    Source: Rae et al. 2021, table A1.
    """
    chars = sum(map(len, items))
    if not chars:
        return 0.0
    return 1.0 - sum(map(len, set(items))) / chars


def top_ngram_char_share(tokens: Sequence[str], n: int) -> float:
    """Return the share of characters that the most frequent n-gram covers.

    Of equally frequent n-grams the first counts. An n-gram that occurs once covers nothing.
    Source: Rae et al. 2021, table A1, for n from 2 to 4.
    """
    counts = Counter(ngrams(tokens, n))
    chars = sum(map(len, tokens))
    if not counts or not chars:
        return 0.0
    gram, count = counts.most_common(1)[0]
    if count == 1:
        return 0.0
    return min(1.0, count * sum(len(str(token)) for token in gram) / chars)


def duplicate_ngram_char_share(tokens: Sequence[str], n: int) -> float:
    """Return the share of characters in n-grams that occurred before. A character counts once.

    Source: Rae et al. 2021, table A1, for n from 5 to 10.
    """
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
    return covered / max(1, sum(map(len, tokens)))


def compression_ratio(text: str) -> float:
    """Return the bytes of the text over the bytes of its zlib compression; 1 for an empty text.

    Source: Whisper's check of a decoding (Radford et al. 2022, arXiv 2212.04356).
    """
    if not text:
        return 1.0
    data = text.encode("utf-8", "surrogatepass")
    return len(data) / len(zlib.compress(data))


def self_bleu(texts: Sequence[str], n: int = 4) -> float:
    """Return self-BLEU: the mean BLEU of each text with all others as references.

    High values mean similar texts. BLEU is nltk's, with its smoothing method 1. For fewer than two
    texts the result is 0. Source: Zhu et al. 2018, arXiv 1802.01886.
    """
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
    """rep-n of a growing sequence.

    Args:
        max_ngrams: distinct n-grams remembered, which bounds the memory. Repeats of later n-grams
            are not counted.
    """

    def __init__(self, n: int = 4, max_ngrams: int = 16_384) -> None:
        self._n = n
        self._max = max_ngrams
        self._seen: set[int] = set()
        self._last: list[Hashable] = []
        self._total = self._repeated = 0

    def append(self, tokens: Iterable[Hashable]) -> None:
        """Append tokens to the sequence."""
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
        return self._repeated / max(1, self._total)


class RepetitionMeter:
    """rep-4 of a stream. Text is counted in blocks, and when `rep` is read."""

    BLOCK_CHARS = 16_384

    def __init__(self) -> None:
        self._counter = RepetitionCounter(4)
        self._units = UnitStream()
        self._uncounted = Pieces()

    def feed(self, delta: str) -> None:
        """Append a delta."""
        self._uncounted.append(delta)
        if self._uncounted.size >= self.BLOCK_CHARS:
            self._counter.append(self._units.feed(self._uncounted.pop()))

    def flush(self) -> None:
        """End the text: its last word is complete."""
        self._counter.append(self._units.feed(self._uncounted.pop()))
        self._counter.append(self._units.flush())

    @property
    def rep(self) -> float:
        self._counter.append(self._units.feed(self._uncounted.pop()))
        return self._counter.rep


def repetition_metrics(text: str) -> dict[str, float]:
    """Return the metrics of a text that `dedup score` prints.

    Sentences are the segments of `RepetitionFilter`, without their markers.

    Returns:
        `chars` and `units` (counts), `compression_ratio` (1 and up), and shares in [0, 1].
    """
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
