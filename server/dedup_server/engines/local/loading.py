"""Loading of models from a path or the Hugging Face hub."""

import io
import logging
import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
)

from dedup_server.engines.local import dtype as dtypes
from dedup_server.engines.local.batch_engine import UnbatchableError
from dedup_server.engines.local.batching import Batcher
from dedup_server.engines.local.checkpoint import Checkpoint
from dedup_server.engines.local.decoding import Decoder
from dedup_server.engines.local.gguf_file import read_header
from dedup_server.engines.local.one_by_one import OneByOne
from dedup_server.engines.local.token_text import TokenTexts
from dedup_server.errors import StartupError

HUB_TIMEOUT_SECONDS = 5.0

log = logging.getLogger("dedup")

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

# Default numbers of sequences in progress.
_MAX_BATCHED = 16
_MAX_ONE_BY_ONE = 4
_CONTEXT = 2048  # of models that declare none, such as those that keep a state
# Fields of a checkpoint's generation config that decoding needs. The others, which configure
# sampling, are defaults of requests.
_DECODING = ("bos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to decode.

    Args:
        context: the longest sequence in tokens: prompt and completion together; of an
            encoder-decoder, each of them.
        defaults: the checkpoint's own generation config.
        start_token: first token of an encoder-decoder's completion; None for other models.
    """

    model: Any
    tokenizer: Any
    decoder: Decoder
    context: int
    defaults: GenerationConfig
    end_tokens: tuple[int, ...]
    texts: TokenTexts
    longest_token: int  # characters
    start_token: int | None


def load(
    checkpoint: Checkpoint,
    name: str,
    device: str | None,
    dtype: Dtype | None,
    max_concurrent: int | None,
    trust: bool,
) -> LoadedModel:
    """Load a model and its tokenizer, and start its decoder.

    Args:
        name: in the log.
        device: None is the fastest available.
        dtype: None is the fastest of float32 and bfloat16 on the CPU, by measurement; elsewhere the
            checkpoint's, bfloat16 of a GGUF file.
        max_concurrent: sequences in progress; None is a default.
        trust: run the checkpoint's own code.

    Raises:
        StartupError: the model cannot be loaded; the message is one line.
    """
    transformers.utils.logging.set_verbosity_error()
    quiet: AbstractContextManager[object] = nullcontext()
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
        quiet = redirect_stderr(io.StringIO())  # the loader of GGUF files has a bar of its own
    # Without `trust_remote_code`, transformers would ask on standard input.
    options = {
        **checkpoint.options,
        "trust_remote_code": trust,
        "local_files_only": checkpoint.path is None and not hub_answers(checkpoint.source),
    }
    begun = time.monotonic()
    config = check(checkpoint, options)
    device = device or best_device()
    log.info("loading %s ...", checkpoint.given)
    tokenizer = _tokenizer(checkpoint, options)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    loaded_as: str = dtype or "auto"
    if checkpoint.is_gguf:
        options["quantization_config"] = GgufConfig(dequantize=True)
        loaded_as = dtype or ("float32" if device == "cpu" else "bfloat16")
    try:
        with quiet:
            model, found = kind.from_pretrained(
                checkpoint.source,
                config=config,
                dtype=loaded_as,
                output_loading_info=True,
                **options,
            )
    except (
        OSError,
        ValueError,
        RuntimeError,
        ImportError,
        LookupError,
        TypeError,
        SafetensorError,
    ) as error:
        raise StartupError(
            f"{checkpoint.given}: cannot be loaded: {type(error).__name__}: {first_line(error)}"
        ) from None
    missing = found["missing_keys"]
    if missing:  # transformers initializes them randomly: the model would generate noise
        raise StartupError(
            f"{checkpoint.given}: the weights are incomplete: {len(missing)} are missing,"
            f" such as {min(missing)}"
        )
    if checkpoint.path and checkpoint.is_gguf:
        model.generation_config.eos_token_id = read_header(checkpoint.path).end_tokens or None
    try:
        if not getattr(model, "hf_quantizer", None):
            if dtype is None and device == "cpu":
                fastest, measured = dtypes.fastest(model)
                model = model.to(fastest)
                if measured:
                    log.info("fastest here: %s; --dtype chooses another", measured)
            model = model.to(device)
        model = model.eval()
    except (RuntimeError, AssertionError, ValueError) as error:
        raise StartupError(
            f"device {device!r}: the model cannot be put there: {first_line(error)}"
        ) from None
    millions = model.num_parameters() / 1e6
    seconds = time.monotonic() - begun
    log.info(
        "loaded %s: %.1fM parameters, %s, %s, in %.1f s",
        name,
        millions,
        device,
        model.dtype,
        seconds,
    )
    return prepare(model, tokenizer, max_concurrent)


def prepare(model: Any, tokenizer: Any, max_concurrent: int | None = None) -> LoadedModel:
    """Start a decoder: in batches if the model allows it, else one sequence per thread."""
    defaults = model.generation_config
    model.generation_config = GenerationConfig(
        **{name: getattr(defaults, name, None) for name in _DECODING}
    )
    config = model.config.get_text_config(decoder=True)
    sizes = (
        getattr(config, name, None)
        for name in ("max_position_embeddings", "n_positions", "max_seq_len")
    )
    context = next((int(size) for size in sizes if isinstance(size, int) and size > 0), _CONTEXT)
    start_token = None
    if model.config.is_encoder_decoder:
        starts = (
            defaults.decoder_start_token_id,
            model.config.decoder_start_token_id,
            defaults.bos_token_id,
        )
        start_token = next((int(token) for token in starts if token is not None), 0)
        model.generation_config.decoder_start_token_id = start_token
    decoder: Decoder
    try:
        decoder = Batcher(model, max_concurrent or _MAX_BATCHED, context)
        context = decoder.context
    except UnbatchableError as reason:
        num_at_once = max_concurrent or _MAX_ONE_BY_ONE
        log.info("no batching, %d sequences at once, each by itself: %s", num_at_once, reason)
        if model.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            # Goal: all sequences together use each core once; more threads wait for each other.
            torch.set_num_threads(max(1, torch.get_num_threads() // num_at_once))
        decoder = OneByOne(model, num_at_once, context)
    ends = defaults.eos_token_id if defaults.eos_token_id is not None else tokenizer.eos_token_id
    return LoadedModel(
        model,
        tokenizer,
        decoder,
        context,
        defaults,
        end_tokens=(ends,) if isinstance(ends, int) else tuple(ends or ()),
        texts=TokenTexts(tokenizer),
        longest_token=max(map(len, tokenizer.get_vocab())),
        start_token=start_token,
    )


def _tokenizer(checkpoint: Checkpoint, options: dict[str, Any]) -> Any:
    where = "tokenizer.ggml" if checkpoint.is_gguf else "tokenizer.json"
    problem = f"{checkpoint.given}: has no tokenizer that can be loaded ({where})"
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.source, **options)
    except Exception as error:  # a broken tokenizer.json raises a bare Exception
        raise StartupError(f"{problem}: {first_line(error)}") from None
    if len(tokenizer.get_vocab()) < 2:  # transformers' substitute for missing files
        raise StartupError(problem)
    return tokenizer


def check(checkpoint: Checkpoint, options: dict[str, Any]) -> Any:
    """Return the config of a model.

    Args:
        options: of `from_pretrained`.

    Raises:
        StartupError: the model cannot generate text, or there is no model.
    """
    checkpoint.require()
    model = checkpoint.given
    try:
        config = AutoConfig.from_pretrained(checkpoint.source, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        if "trust_remote_code" in str(error):
            reason = "it contains code of its own, which runs only with --trust-remote-code"
        raise StartupError(f"{model}: cannot be loaded: {reason}") from None
    kind = (config.architectures or [config.model_type])[0]
    if config.is_encoder_decoder:
        if type(config) not in transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
            raise StartupError(f"{model} is an encoder-decoder ({kind}), but not from text to text")
        return config
    if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING and not getattr(
        config, "is_decoder", False
    ):
        raise StartupError(f"{model} is an encoder-only model ({kind}) and cannot generate text")
    own_classes = getattr(config, "auto_map", None) or {}
    if (
        type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        and "AutoModelForCausalLM" not in own_classes
    ):
        raise StartupError(f"{model} is not a language model ({kind})")
    return config


def best_device() -> str:
    """Return the fastest device of this machine."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def hub_answers(model: str) -> bool:
    """Return whether the hub responds. Goal: fail fast; transformers retries for 23 s per file."""
    try:
        HfApi().model_info(model, timeout=HUB_TIMEOUT_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return True  # it responds, and refuses; loading reports why
    except Exception:  # errors of the HTTP library, which depend on the version of the hub's client
        return False
    return True


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    return str(error).strip().split("\n", 1)[0].rstrip(" :") or type(error).__name__
