"""Is DRY llama.cpp's own, and what does a step of each cost?

    make test-llama-cpp                                         # fetches what it needs
    PYTHONPATH=. .venv-live/bin/python benchmarks/dry_llama_cpp.py   # parity over 3,000 random cases each, then speed; two minutes

Calls llama.cpp's sampler in the library of xllamacpp, or else of llama-cpp-python; no model is needed. Parity: the largest
difference of a logit, relative where the penalty is above 1. Ours cuts a penalty so that the logit stays finite; where llama.cpp's
is beyond that, both count as equal. Speed: growing decode at a context of 16k, one thread: microseconds for taking a token in and
applying the penalty, medians.
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dedup.config import DecodingConfig
from dedup.logits.dry import dry
from dedup.logits.history import Breakers, TokenHistory
from dedup.logits.tokens import NO_TOKENS, TokenSets

Sequences = tuple[tuple[int, ...], ...]  # breakers, as tokens
_CONTEXT = 1024  # tokens, where a sampler is told

if find_spec("xllamacpp"):
    import xllamacpp

    _path = next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))
else:
    import llama_cpp

    _path = next((Path(llama_cpp.__file__).parent / "lib").glob("libllama.so*"))
_library = ctypes.CDLL(str(_path))
# llama_sampler_init_dry_testing(float, float, int, int, const std::vector<std::vector<int>> &)
_NAME, _TYPES = "llama_sampler_init_dry_testing", "ffiiRKSt6vectorIS_IiSaIiEESaIS1_EE"
# In earlier releases the context's length comes first, and -1 is as many tokens.
CONTEXT_IS_ALL = hasattr(_library, f"_Z30{_NAME}i{_TYPES}")
_init = _library[f"_Z30{_NAME}{'i' if CONTEXT_IS_ALL else ''}{_TYPES}"]
_init.restype = ctypes.c_void_p
_public_init = _library.llama_sampler_init_dry
_public_init.restype = ctypes.c_void_p
_accept, _apply, _free = (
    _library.llama_sampler_accept,
    _library.llama_sampler_apply,
    _library.llama_sampler_free,
)
_accept.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_apply.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
_free.argtypes = [ctypes.c_void_p]
_quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
_library.llama_log_set(_quiet, None)


class _Vector(ctypes.Structure):
    """A std::vector: where its elements begin, where they end, where its memory ends."""

    _fields_ = (("begin", ctypes.c_void_p), ("end", ctypes.c_void_p), ("room", ctypes.c_void_p))


def _vector(elements: "ctypes.Array[object]") -> _Vector:
    begin = ctypes.addressof(elements)
    end = begin + ctypes.sizeof(elements)
    return _Vector(begin, end, end)


class _Candidate(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float))


class _Candidates(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int64),
        ("sorted", ctypes.c_bool),
    )


class LlamaDry:
    """llama.cpp's DRY. `logits` are the candidates' own memory: what `apply` changes."""

    def __init__(
        self, config: DecodingConfig, last_n: int, breakers: Sequences, logits: np.ndarray
    ) -> None:
        rows = [(ctypes.c_int32 * len(breaker))(*breaker) for breaker in breakers]
        inner = (_Vector * len(rows))(*map(_vector, rows))
        numbers = (ctypes.c_float(config.dry_multiplier), ctypes.c_float(config.dry_base))
        context = (_CONTEXT,) if CONTEXT_IS_ALL else ()
        if breakers:  # as tokens, only the function for llama.cpp's tests takes them
            self._sampler = _init(
                *context, *numbers, config.dry_allowed_length, last_n, ctypes.byref(_vector(inner))
            )
        else:
            self._sampler = _public_init(
                None, *context, *numbers, config.dry_allowed_length, last_n, None, ctypes.c_size_t()
            )
        self._candidates = np.zeros(
            len(logits), np.dtype([("id", "i4"), ("logit", "f4"), ("p", "f4")])
        )
        self._candidates["id"] = np.arange(len(logits))
        self.logits = self._candidates["logit"]
        self.logits[:] = logits
        self._array = _Candidates(self._candidates.ctypes.data, len(logits), -1, False)

    def accept(self, token: int) -> None:
        _accept(self._sampler, token)

    def apply(self) -> None:
        _apply(self._sampler, ctypes.byref(self._array))

    def __enter__(self) -> "LlamaDry":
        return self

    def __exit__(self, *_: object) -> None:
        _free(self._sampler)


def heads(breakers: Sequences) -> Breakers:
    found: dict[int, list[tuple[int, ...]]] = {}
    for head, *tail in breakers:
        found.setdefault(head, []).append(tuple(tail))
    return {head: tuple(tails) for head, tails in found.items()}


def random_tokens(rng: np.random.Generator, vocabulary: int) -> list[int]:
    length, kind = int(rng.integers(1, 160)), rng.integers(4)
    if kind == 0:
        return [int(rng.integers(vocabulary))] * length
    symbols = int(rng.integers(1, min(vocabulary, 6) + 1)) if kind == 1 else vocabulary
    tokens = rng.integers(0, symbols, length)
    if kind == 2:
        tokens = np.tile(tokens[: rng.integers(1, length + 1)], length)[:length]
    if kind == 3:
        tokens = np.minimum(rng.zipf(1.3, length), vocabulary) - 1
    return [int(token) for token in tokens]


def parity(cases: int, with_breakers: bool, seed: int = 0) -> tuple[float, int]:
    """The largest difference, and in how many cases anything was penalised."""
    rng = np.random.default_rng(seed)
    worst, penalised = 0.0, 0
    for _ in range(cases):
        vocabulary = int(rng.integers(2, rng.choice([10, 60, 2000])))
        tokens = random_tokens(rng, vocabulary)
        config = DecodingConfig(
            dry_multiplier=float(rng.uniform(0.01, 5)),
            dry_base=float(rng.choice([1.0, 1.0000005, rng.uniform(1.1, 4)], p=[0.1, 0.1, 0.8])),
            dry_allowed_length=int(rng.integers(0, 7)),
            dry_penalty_last_n=int(rng.choice([-1, 1, 5, 30, 100])),
        )
        breakers: Sequences = ()
        if with_breakers:
            sizes = rng.integers(1, 4, rng.integers(1, 4))
            breakers = tuple(tuple(rng.integers(0, vocabulary, size).tolist()) for size in sizes)
        logits = rng.standard_normal(vocabulary).astype(np.float32)
        ours = logits.copy()
        sets = TokenSets(heads(breakers)) if breakers else NO_TOKENS
        dry(_grown(tokens, config, sets, rng, vocabulary), ours, config, sets)
        last_n = config.dry_penalty_last_n if config.dry_penalty_last_n > 0 else max(1, len(tokens))
        with LlamaDry(config, last_n, breakers, logits) as theirs:
            for token in tokens:
                theirs.accept(token)
            theirs.apply()
            expected = theirs.logits.astype(np.float64)
        penalised += bool((ours != logits).any())
        beyond = expected < -np.finfo(np.float32).max / 8
        assert (ours[beyond] < -np.finfo(np.float32).max / 8).all()
        difference = np.abs(ours - expected)[~beyond] / np.maximum(1, np.abs(expected[~beyond]))
        worst = max(worst, float(difference.max(initial=0)))
    return worst, penalised


def _grown(
    tokens: list[int],
    config: DecodingConfig,
    sets: TokenSets,
    rng: np.random.Generator,
    vocabulary: int,
) -> TokenHistory:
    """The tokens' history: made at once, or grown step by step and asked on the way, with steps back."""
    if rng.random() < 0.5:
        return TokenHistory(tokens)
    history = TokenHistory()
    for token in tokens:
        if rng.random() < 0.1:
            history.append(int(rng.integers(vocabulary)))
            dry(history, np.zeros(vocabulary, np.float32), config, sets)
            history.rollback(1)
        history.append(token)
        if rng.random() < 0.5:
            dry(history, np.zeros(vocabulary, np.float32), config, sets)
    return history


def histories(length: int, vocabulary: int) -> Iterator[tuple[str, list[int]]]:
    rng = np.random.default_rng(0)
    text = np.minimum(rng.zipf(1.2, length) * 7919 % vocabulary, vocabulary - 1)
    for _ in range(length // 100):
        source, target, size = *rng.integers(0, length - 12, 2).tolist(), int(rng.integers(3, 12))
        text[target : target + size] = text[source : source + size].copy()
    yield "text", text.tolist()
    yield (
        "a loop of 50",
        np.tile(rng.integers(0, vocabulary, 50), length // 50 + 1)[:length].tolist(),
    )
    yield "one token", [7] * length


def speed(
    context: int, vocabulary: int, breakers: Sequences, steps: int = 40
) -> Iterator[tuple[str, float, float]]:
    """(history, llama.cpp's microseconds, ours)."""
    config = DecodingConfig(dry_multiplier=0.8)
    sets = TokenSets(heads(breakers)) if breakers else NO_TOKENS
    for name, tokens in histories(context + steps, vocabulary):
        logits = np.zeros(vocabulary, np.float32)
        history = TokenHistory(tokens[:context])
        dry(history, logits, config, sets)
        one, other = [], []
        with LlamaDry(config, context + steps, breakers, logits) as theirs:
            for token in tokens[:context]:
                theirs.accept(token)
            for token in tokens[context:]:
                theirs.logits[:] = 0  # both rows come as from a model: just written
                begun = time.perf_counter()
                theirs.accept(token)
                theirs.apply()
                one.append(time.perf_counter() - begun)
                logits[:] = 0
                begun = time.perf_counter()
                history.append(token)
                dry(history, logits, config, sets)
                other.append(time.perf_counter() - begun)
        yield name, 1e6 * statistics.median(one), 1e6 * statistics.median(other)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=3000)
    args = parser.parse_args()
    for with_breakers in (False, True):
        worst, penalised = parity(args.cases, with_breakers)
        name = "with breakers of one to three tokens" if with_breakers else "without breakers"
        print(
            f"{name}: {args.cases} cases, {penalised} of them with a penalty; largest difference {worst:.1e}",
            flush=True,
        )
    print(
        "\n| context, vocabulary | history | llama.cpp | ours | llama.cpp, four breakers | ours |\n| --- |"
        + " --- |" * 5
    )
    single = ((11,), (12,), (13,), (14,))
    for context, vocabulary in ((512, 32_000), (4096, 32_000), (16_384, 32_000), (16_384, 152_000)):
        for plain, broken in zip(
            speed(context, vocabulary, ()), speed(context, vocabulary, single), strict=True
        ):
            cells = " | ".join(f"{number:.0f}" for number in (*plain[1:], *broken[1:]))
            print(f"| {context}, {vocabulary} | {plain[0]} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
