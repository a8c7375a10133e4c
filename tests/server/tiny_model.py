"""Tiny models made on the fly, and one that says what a test wants it to say."""

import functools
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from dedup_server.engines.local.choice import Choice
from dedup_server.engines.local.decoding import OnEnd, Scores, Step
from dedup_server.engines.local.engine import LocalEngine

CONTEXT = 64
TEXT = [
    "the cat sat on the mat, the dog sat on the cat"
]  # merges for English; other letters stay single bytes


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def tiny_config(kind: type[PreTrainedConfig] = LlamaConfig, **more: Any) -> PreTrainedConfig:
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    tokens = {
        "vocab_size": len(tiny_tokenizer()),
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    return kind(**sizes, **tokens, **more)


def save_tiny_model(folder: Path, config: PreTrainedConfig | None = None) -> Path:
    """A model of random weights, the same at every call, with its tokenizer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config or tiny_config(max_position_embeddings=CONTEXT))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def make_it_say(engine: LocalEngine, tokens: list[int], seconds_per_token: float = 0) -> None:
    """From now on the engine's model gives these tokens, then its end token."""
    decoder, end = engine.loaded.decoder, engine.loaded.end_tokens[0]
    submit = decoder.submit

    def scripted(prompt: list[int], step: Step, on_end: OnEnd) -> Any:
        left = iter(tokens)

        def said(scores: Scores) -> int | None:
            time.sleep(seconds_per_token)
            scores[:] = -10
            scores[next(left, end)] = 10
            return step(scores)

        return submit(prompt, said, on_end)

    decoder.submit = scripted  # type: ignore[method-assign]


def said_by(engine: LocalEngine) -> list[int]:
    """The tokens that the engine's model says from now on, as one list."""
    said: list[int] = []
    put = Choice.put

    def noted(choice: Choice, token: int) -> str:
        said.append(token)
        return put(choice, token)

    decoder = engine.loaded.decoder
    submit = decoder.submit

    def watched(prompt: list[int], step: Step, on_end: OnEnd) -> Any:
        choice = step.args[0]  # type: ignore[attr-defined]
        choice.put = functools.partial(noted, choice)
        return submit(prompt, step, on_end)

    decoder.submit = watched  # type: ignore[method-assign]
    return said
