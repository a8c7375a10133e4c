"""Untrusted text on a terminal."""

import pytest

from dedup.terminal import fit, one_line, printable, shortened, width


def test_nothing_moves_the_cursor_or_turns_the_text() -> None:
    assert (
        printable("a\x1b[31mb\x07\x9b\u202ec\ud800\u2028\U000e0041")
        == "a\\x1b[31mb\\x07\\x9b\\u202ec\\ud800\\u2028\\U000e0041"
    )
    assert printable("一\u3000二\n", keep="\n") == "一 二\n"
    assert one_line(" a\n\n\tb\r\u2028c ") == "a b c"


@pytest.mark.parametrize(
    ("text", "columns"),
    [("abc", 3), ("中文", 4), ("ｆｕｌｌ", 8), ("e\u0301", 1), ("かな", 4), ("🙂", 2)],
)
def test_width(text: str, columns: int) -> None:
    assert width(text) == columns


def test_fit_is_exact_where_a_wide_character_has_no_room() -> None:
    assert fit("中文字", 6) == "中文字"
    assert fit("中文字", 5) == "中文…"
    assert fit("中文字", 4) == "中… "
    assert fit("ab", 4, right=True) == "  ab"
    assert shortened("中文字", 4) == "中…"
