"""Words and keys: the fast path for ASCII gives the results of the general one."""

from hypothesis import given
from hypothesis import strategies as st

from dedup.text.words import key_prefix, sentence_key, units

ASCII = st.text(st.one_of(st.sampled_from("abAB01 *_`\"',.!;:?"), st.characters(max_codepoint=127)))


@given(ASCII)
def test_a_quote_that_does_not_count_changes_no_key(text: str) -> None:
    """A character outside ASCII selects the general path; if it is ignored, the key is the same."""
    assert key_prefix("\u201c" + text) == key_prefix(text)
    assert sentence_key(text + "\u201d") == sentence_key(text)


@given(ASCII)
def test_words_are_the_same_beside_those_of_other_scripts(text: str) -> None:
    """The words of a text do not depend on the text around it."""
    assert units(text + " 中") == [*units(text), "中"]
    assert units(text + " é") == [*units(text), "é"]
