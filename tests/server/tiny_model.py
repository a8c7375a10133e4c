"""Tiny models made on the fly, and one that says what a test wants it to say."""

import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutputWithPast

from server.engines.local import LocalEngine

CONTEXT = 64
TEXT = ["the cat sat on the mat, the dog sat on the cat"]  # merges for English; other letters stay single bytes


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def tiny_config(kind: type[PreTrainedConfig] = LlamaConfig, **more: Any) -> PreTrainedConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    tokens = {"vocab_size": len(tiny_tokenizer()), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
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
    size = len(engine._tokenizer)

    def forward(input_ids: torch.Tensor, past_key_values: Any = None, **options: Any) -> CausalLMOutputWithPast:
        time.sleep(seconds_per_token)
        step = past_key_values or 0
        logits = torch.full((*input_ids.shape, size), -10.0)
        logits[..., tokens[step] if step < len(tokens) else engine._tokenizer.eos_token_id] = 10.0
        return CausalLMOutputWithPast(logits=logits, past_key_values=step + 1)

    engine._model.forward = forward
    engine._forward_options = {}
