import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from dedup.logits.detokenizer import Detokenizer
from tests.logits.byte_tokenizers import TOKENIZERS, TOKENS_OF, byte_tokens

# U+FFFD itself looks like an incomplete character, and may come late or doubled.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=60) | st.text(
    "a é海🙂", max_size=60
)


@settings(deadline=None)
@given(TEXTS)
@pytest.mark.parametrize("kind", ["byte fallback", "byte level"])
def test_text_comes_whole_and_never_half_a_character(kind, text):
    tokenizer = TOKENIZERS[kind]
    detokenizer = Detokenizer(tokenizer)
    so_far = ""
    for token in TOKENS_OF[kind](text):
        so_far += detokenizer.feed(token)
        assert text.startswith(so_far)
    assert so_far + detokenizer.flush() == text
    assert detokenizer.flush() == ""


@settings(deadline=None)
@given(st.lists(st.integers(0, 259), max_size=80))
def test_bytes_that_are_no_text_are_not_held_for_ever(tokens):
    detokenizer = Detokenizer(TOKENIZERS["byte fallback"])
    for token in tokens:
        detokenizer.feed(token)
    text = "".join(map(detokenizer.feed, byte_tokens("abcd")))
    assert (text + detokenizer.flush()).endswith(("d", "\ufffd"))
    garbage = "".join(detokenizer.feed(4 + 0xFF) for _ in range(100))
    assert set(garbage) == {"\ufffd"}
    assert len(garbage) > 90


def test_words_keep_their_spaces_over_a_long_text():
    vocabulary = {"<unk>": 0, "</s>": 1, **{f"▁w{number}": number for number in range(2, 40)}}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokens = [*range(2, 40), 1, 1, 1, *range(39, 2, -1)]
    detokenizer = Detokenizer(tokenizer)
    text = "".join(map(detokenizer.feed, tokens)) + detokenizer.flush()
    assert text == tokenizer.decode(tokens, skip_special_tokens=True)
    assert " w39 w39 w38" in text
