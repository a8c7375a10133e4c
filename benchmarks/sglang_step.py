"""Measure what a step costs in SGLang, and whether it grows with the text.

    make test-integration-sglang                                    # builds the environment
    .venv-integrations/sglang/bin/python benchmarks/sglang_step.py  # a minute

Times a step of our custom logit processor, as a server loads it, on a batch of 8 requests of 500 and of 8,000 tokens with 32,000
logits, and
one of SGLang's own no-repeat-n-gram processor (`DeepseekOCRNoRepeatNGramLogitProcessor`, with a window of all tokens). Prints ratios.
"""

import argparse
import statistics
import sys
import time
from array import array
from pathlib import Path
from random import Random
from site import getsitepackages
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from dedup.config import DecodingConfig
from dedup.integrations.sglang import RepetitionLogitProcessor, custom_params
from tests.external.integrations.sglang import served

BATCH, VOCABULARY, STEPS = 8, 32_000, 100
LENGTHS = (500, 8_000)
OURS = {
    "n-gram ban": DecodingConfig(no_repeat_ngram_size=4),
    "DRY": DecodingConfig(dry_multiplier=0.8, dry_sequence_breakers=()),
    "LZ penalty": DecodingConfig(lz_penalty=0.2),
    "all three": DecodingConfig(
        no_repeat_ngram_size=4, dry_multiplier=0.8, dry_sequence_breakers=(), lz_penalty=0.2
    ),
}


def step_seconds(processor: Any, params: dict[str, Any], length: int) -> float:
    """Return the median time of a step after a first one, which reads the prompt."""
    random = Random(0)
    requests = [
        SimpleNamespace(
            origin_input_ids=array("q", random.choices(range(2_000), k=length)),
            output_ids=array("q"),
        )
        for _ in range(BATCH)
    ]
    batch = [params | {"__req__": request} for request in requests]
    logits = torch.randn(BATCH, VOCABULARY)
    times = []
    for _ in range(STEPS + 1):
        row = logits.clone()
        begun = time.perf_counter()
        processor(row, batch)
        times.append(time.perf_counter() - begun)
        for request in requests:
            request.output_ids.append(random.randrange(2_000))
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.set_num_threads(1)
    base, _ = served.load_sglang(Path(getsitepackages()[0]))
    sglang = sys.modules[served.PROCESSORS]
    ours = base.from_str(RepetitionLogitProcessor.to_str())
    own = sglang.DeepseekOCRNoRepeatNGramLogitProcessor()
    short, long = LENGTHS
    theirs = [
        step_seconds(own, {"ngram_size": 4, "window_size": 1 << 20}, length) for length in LENGTHS
    ]
    print(f"{'':22} {long} / {short} tokens   SGLang's n-gram ban / this, at {long}")
    print(f"{'SGLang n-gram ban':22} {theirs[1] / theirs[0]:15.1f}")
    for name, config in OURS.items():
        times = [step_seconds(ours, custom_params(config), length) for length in LENGTHS]
        print(f"{name:22} {times[1] / times[0]:15.1f} {theirs[1] / times[1]:20.1f}")


if __name__ == "__main__":
    main()
