"""The metrics against independent sources and numbers worked by hand."""

from itertools import pairwise

import pytest
from datatrove.pipeline.filters import gopher_repetition_filter as gopher
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.util import ngrams as nltk_ngrams

from dedup.text import metrics
from dedup.text.words import units

tokens = st.lists(st.sampled_from("abc"), max_size=30)


@given(tokens, st.integers(1, 5))
def test_rep_n_is_one_less_the_share_of_distinct_ngrams(sequence: list[str], n: int) -> None:
    grams = list(nltk_ngrams(sequence, n))
    expected = 1 - len(set(grams)) / len(grams) if grams else 0.0
    assert metrics.rep_n(sequence, n) == pytest.approx(expected)
    assert metrics.distinct_n(sequence, n) == pytest.approx(1 - expected)


@given(tokens, st.lists(st.integers(0, 30), max_size=4))
def test_counting_in_a_stream_gives_rep_n(sequence: list[str], cuts: list[int]) -> None:
    counter = metrics.RepetitionCounter(4)
    edges = [0, *sorted(min(cut, len(sequence)) for cut in cuts), len(sequence)]
    for start, end in pairwise(edges):
        counter.append(sequence[start:end])
    assert counter.rep == pytest.approx(metrics.rep_n(sequence, 4))


@given(st.text(max_size=200))
def test_every_share_is_one(text: str) -> None:
    numbers = metrics.repetition_metrics(text)
    for name, value in numbers.items():
        if name not in ("chars", "units", "compression_ratio"):
            assert 0 <= value <= 1, name


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=40), st.integers(2, 5))
def test_gophers_fractions_are_datatroves(words: list[str], n: int) -> None:
    chars = sum(map(len, words))
    num_duplicates, duplicate_chars = gopher.find_duplicates(words)
    assert metrics.duplicate_share(words) == pytest.approx(num_duplicates / len(words))
    assert metrics.duplicate_char_share(words) == pytest.approx(duplicate_chars / chars)
    assert metrics.duplicate_ngram_char_share(words, n) == pytest.approx(
        gopher.find_all_duplicate(words, n) / chars
    )
    grams = ["".join(gram) for gram in nltk_ngrams(words, n)]
    if len(set(grams)) < len(grams):
        assert metrics.top_ngram_char_share(words, n) == pytest.approx(
            min(1, gopher.find_top_duplicate(grams) / chars)
        )


def test_worked_by_hand() -> None:
    sequence = "the cat sat on the cat sat".split()
    assert metrics.rep_n(sequence, 1) == pytest.approx(3 / 7)
    assert metrics.rep_n(sequence, 2) == pytest.approx(2 / 6)
    assert metrics.rep_n(sequence, 3) == pytest.approx(1 / 5)
    assert metrics.diversity(sequence) == pytest.approx(4 / 6 * 4 / 5 * 1)
    assert metrics.rep_w(sequence, 3) == 0
    assert metrics.rep_w(sequence, 4) == pytest.approx(3 / 7)
    assert metrics.seq_rep_n([sequence, ["a"] * 3], 2) == pytest.approx((2 / 6 + 1 / 2) / 2)
    assert metrics.top_ngram_char_share(sequence, 2) == pytest.approx(12 / 20)
    assert metrics.duplicate_ngram_char_share(["a", "b", "c", "a", "b", "d"], 2) == pytest.approx(
        2 / 6
    )
    assert metrics.duplicate_share(["a", "b", "a"]) == pytest.approx(1 / 3)
    assert metrics.duplicate_char_share(["aa", "b", "aa"]) == pytest.approx(2 / 5)
    numbers = metrics.repetition_metrics("他来了。她走了。他来了。\n他来了！\n\n他来了！\n")
    assert numbers["duplicate_sentences"] == pytest.approx(3 / 5)
    assert numbers["duplicate_lines"] == pytest.approx(1 / 3)
    names = metrics.repetition_metrics(
        "Mr. Holmes paid 3.14 to Mr. Watson of the U.S. bank. It rose to 3.50 in the U.S. later."
    )
    assert names["duplicate_sentences"] == 0
    assert metrics.compression_ratio("abc " * 500) > 20


def test_self_bleu_is_the_mean_of_nltks_bleu() -> None:
    texts = ["the cat sat on the mat", "the cat sat on the rug", "nobody remembered such a flood"]
    split = [units(text) for text in texts]
    smooth = SmoothingFunction().method1
    scores = [
        sentence_bleu([split[j] for j in range(3) if j != i], split[i], smoothing_function=smooth)
        for i in range(3)
    ]
    assert metrics.self_bleu(texts) == pytest.approx(sum(scores) / 3)
    assert metrics.self_bleu(texts[:1]) == 0
