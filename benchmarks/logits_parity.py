"""Are the n-gram ban and the penalties transformers' and vLLM's own, to the bit?

    python benchmarks/logits_parity.py                 # 10,000 random cases each; a minute
    python benchmarks/logits_parity.py --cases 100000

Random batches (histories of few and of many tokens, loops, n from 1 to 6, vocabularies from 2 on) through three ways each: the processor
for `generate`, a `TokenHistory` that grows token by token, and the vectorised device path. A row that transformers would leave without a
token is counted apart: there the ban is lifted here. For real `generate` runs see tests/logits/test_hf.py, for DRY dry_llama_cpp.py.
"""

import argparse
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from dedup import DecodingConfig
from dedup.logits.device import DeviceMethods
from dedup.logits.hf import logits_processors
from dedup.logits.history import TokenHistory
from dedup.logits.processors import apply
from dedup.logits.tokens import NO_TOKENS

Case = tuple[torch.Tensor, torch.Tensor]  # ids, scores
Reference = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Draw = Callable[[], tuple[DecodingConfig, Reference]]


def random_case(rng: np.random.Generator) -> Case:
    batch, length, vocabulary = (
        int(rng.integers(1, 5)),
        int(rng.integers(1, 200)),
        int(rng.integers(2, 400)),
    )
    symbols = int(rng.integers(1, vocabulary + 1))
    ids = rng.integers(0, symbols, (batch, length))
    if rng.random() < 0.3:
        period = int(rng.integers(1, length + 1))
        ids = np.tile(ids[:, :period], (1, length // period + 1))[:, :length]
    scores = 5 * rng.standard_normal((batch, vocabulary))
    scores[rng.random(scores.shape) < 0.02] = -np.inf
    return torch.from_numpy(ids), torch.from_numpy(scores.astype(np.float32))


def by_processor(config: DecodingConfig, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return logits_processors(config, prompt_length=0)(ids, scores)


def by_history(config: DecodingConfig, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    for tokens, row in zip(ids.tolist(), scores.numpy(), strict=True):
        history = TokenHistory(ngram_size=config.no_repeat_ngram_size)
        for token in tokens:
            history.append(token)
        apply(config, history, row)
    return scores


def on_device(config: DecodingConfig, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    DeviceMethods(config, NO_TOKENS).apply(ids, scores, 0)
    return scores


WAYS = {"generate": by_processor, "deltas": by_history, "device": on_device}


def vllm_formula(ids: torch.Tensor, scores: torch.Tensor, config: DecodingConfig) -> torch.Tensor:
    counts = torch.zeros_like(scores).scatter_add_(1, ids, torch.ones_like(ids, dtype=scores.dtype))
    return scores - config.frequency_penalty * counts - config.presence_penalty * (counts > 0)


def compare(name: str, cases: int, rng: np.random.Generator, draw: Draw) -> None:
    same: Counter[str] = Counter()
    rows = lifted = 0
    for _ in tqdm(range(cases), desc=name, leave=False):
        ids, scores = random_case(rng)
        config, reference = draw()
        expected = reference(ids, scores.clone())
        kept = expected.amax(-1) > -torch.inf
        rows += int(kept.sum())
        lifted += int((~kept).sum())
        for way, apply_to in WAYS.items():
            made = apply_to(config, ids, scores.clone())
            same[way] += int((made == expected).all(-1)[kept].sum())
            assert (made[~kept] == scores[~kept]).all(), "a ban that leaves no token must be lifted"
    equal = ", ".join(f"{way} {same[way]}" for way in WAYS)
    print(
        f"{name}: {cases} cases, {rows} rows; equal to the bit: {equal}; bans lifted in {lifted} more"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)

    def ngram() -> tuple[DecodingConfig, Reference]:
        size = int(rng.integers(1, 7))
        return DecodingConfig(no_repeat_ngram_size=size), NoRepeatNGramLogitsProcessor(size)

    def repetition() -> tuple[DecodingConfig, Reference]:
        penalty = float(rng.uniform(0.3, 3))
        return DecodingConfig(repetition_penalty=penalty), RepetitionPenaltyLogitsProcessor(penalty)

    def openai() -> tuple[DecodingConfig, Reference]:
        config = DecodingConfig(
            frequency_penalty=float(rng.uniform(-2, 2)), presence_penalty=float(rng.uniform(-2, 2))
        )
        return config, lambda ids, scores: vllm_formula(ids, scores, config)

    compare("n-gram ban, transformers", args.cases, rng, ngram)
    compare("repetition penalty, transformers", args.cases, rng, repetition)
    compare("frequency and presence penalty, vLLM's formula", args.cases, rng, openai)


if __name__ == "__main__":
    main()
