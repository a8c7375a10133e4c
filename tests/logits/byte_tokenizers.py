"""Tokenizers with a token per byte, of the two kinds that are in use."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def bytes_tokenizer():
    """Return a SentencePiece-like tokenizer: four special tokens, then the bytes."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    names = specials + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(
        models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[], byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def level_tokenizer():
    """Return a GPT-2-like tokenizer: an incomplete character decodes as one U+FFFD."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = {"byte fallback": bytes_tokenizer(), "byte level": level_tokenizer()}


def byte_tokens(text):
    return [4 + byte for byte in text.encode()]


TOKENS_OF = {
    "byte fallback": byte_tokens,
    "byte level": lambda text: TOKENIZERS["byte level"](text)["input_ids"],
}
