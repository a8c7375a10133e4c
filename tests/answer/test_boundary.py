"""Whole sentences: where a text can stop, and the gate that lets them pass."""

from random import Random

import pytest

from dedup.answer.boundary import SentenceGate, can_stop, closing_of, is_garbled, stands_open

TEXT = """The door was open. She went in, and saw nobody.

1. **Milk** is white.
2. **Tea**: it is brown
3. Sugar

Here is how:

```python
def brew(tea):
    return tea.strip()
```

门开着。她走了进去，什么人也没有看见。

| a | b |
|---|---|
| 1 | 2 |

That was all that there was to say about it."""


NAMES = [(1, "Albert Einstein"), (2, "Charles Babbage"), (3, "Nikola Tesla"), (4, "Ada Lovelace")]


@pytest.mark.parametrize("seed", range(50))
def test_what_passes_is_a_prefix_that_can_stop_however_the_text_is_cut(seed: int) -> None:
    random = Random(seed)
    start = random.randrange(len(TEXT))
    gate, at, passed = SentenceGate(TEXT[:start]), start, ""
    while at < len(TEXT):
        size = random.randrange(1, 12)
        given = gate.feed(TEXT[at : at + size])
        at += size
        passed += given
        assert TEXT[start:].startswith(passed)
        assert passed + gate.held == TEXT[start : min(at, len(TEXT))]
        if given:
            assert can_stop(TEXT[: start + len(passed)], TEXT[start + len(passed) :])
    assert passed + gate.finish() == TEXT[start:]
    assert gate.num_passed == len(TEXT)


def test_the_gate_knows_of_an_open_fence() -> None:
    gate = SentenceGate("Look:\n\n```python\n")
    assert gate.fence == "```"
    assert gate.feed("x = 1\n```\nDone. And") == "x = 1\n```\nDone."
    assert gate.fence == ""


def test_half_a_sentence_is_held_at_the_end() -> None:
    gate = SentenceGate("It is made of ")
    assert gate.feed("milk. It is sold in") == "milk."
    assert gate.finish() == ""
    assert gate.held == " It is sold in"


@pytest.mark.parametrize(
    ("text", "following"),
    [
        ("It is made of ", "milk"),
        ("It is made of milk", " and milk"),
        ("他走进了", "门里"),
        ('She said: "I am', " here"),
        ("15. Japan (West) 16. North Korea  17.", " Japan"),
    ],
)
def test_text_within_a_sentence_stands_open(text: str, following: str) -> None:
    assert stands_open(text, following)
    assert not can_stop(text, following)


@pytest.mark.parametrize(
    ("text", "following"),
    [
        ("He left.", " He left."),
        ("他走了。", "他走了。"),
        ("- 2 cups of milk", "\n- 2 cups of milk"),
        ("He left.\n\n", "He left."),
        ('"He left."', ""),
        ("[Your Name]", " [Your Name]"),
        ("One plus two is 3. Two plus two is 4.", ""),
    ],
)
def test_text_behind_a_sentence_can_stop(text: str, following: str) -> None:
    assert not stands_open(text, following)
    assert can_stop(text, following)


@pytest.mark.parametrize(
    "text",
    ["Ingredients:\n", "答案：\n", "## Method\n", "**Method**\n", "3. \n", "Dishes of Japan. 3.\n"],
)
def test_what_announces_something_cannot_stop(text: str) -> None:
    assert not can_stop(text)


@pytest.mark.parametrize(
    ("passed", "text", "is_lost"),
    [
        ('```json\n{"rows": [\n  {', "\n# 记忆墙\n", True),
        ('```json\n{"rows": [\n  {"a": 1},\n', "Here is the rest:\n", True),
        ('```json\n{"rows": [\n  {"a": 1},\n', '  {"a": -2.5},\n  null\n]}\n', False),
        ('```json\n{\n  // rows\n  "rows": [\n', "  # more\n", False),
        ('```json\n{\n  "author": "A.A.S.', "A.\n}\n", True),
        ('```json\n{\n  "author": "A.A.S.', 'A. \\"Mo\\"",\n  "year": 1\n}\n', False),
        ("```json\n[1]\n```\n", "It has one row.\n", False),
        ("```python\nrows = [\n", "    # more\n", False),
    ],
)
def test_json_is_not_continued_with_other_text(passed: str, text: str, is_lost: bool) -> None:
    gate = SentenceGate(passed)
    gate.feed(text)
    gate.finish()
    assert gate.is_lost is is_lost


@pytest.mark.parametrize(
    ("passed", "text", "is_lost"),
    [
        ("```python\ndef f(n):\n", "```\n\n这是一个函数。\n", True),
        ("It is this:\n\n", "```js\nfunction f() {\n```\n", True),
        ("```python\ndef f(n):\n", "    return n\n```\n", False),
        ("```python\nx = 1\n# and then:\n", "```\n", False),
        ("The plan:\n\n* 1:00: tea\n", "*\n* 2:00: rum\n", True),
        ("The plan:\n\n* 1:00: tea\n", "* 2:00: rum\n", False),
        ("```java\n/**\n * Adds two.\n", " *\n * @return the sum\n", False),
        ("```diff\n-a = 1\n", "+\n+b = 2\n", False),
    ],
)
def test_an_item_and_a_block_have_a_body(passed: str, text: str, is_lost: bool) -> None:
    gate = SentenceGate(passed)
    gate.feed(text)
    gate.finish()
    assert gate.is_lost is is_lost


def test_a_list_of_bold_names_can_stop() -> None:
    assert can_stop("1. Japan:\n- **Sushi**\n- **Tofu**\n")
    assert not can_stop("Two things matter.\n\n- **Cost**\n")
    names = "- **Sushi**\n- **Tofu**\n- **Ramen**"
    assert SentenceGate("1. Japan:\n").feed(f"{names}\n- **So") == names


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        ("", "1. Kusi: 31\n2. Kusi: 32\n3. Kusi: 33\n4. Kusi: 34\n"),
        ("[Address]\n[Number]\n", "[Address]\n[Number]\n[Address]\n[Number]\n[Address]\n"),
        ("他走了。", "他走了。他走了。他走了。"),
    ],
)
def test_a_third_copy_does_not_pass(passed: str, text: str) -> None:
    gate = SentenceGate(passed)
    given = "".join(gate.feed(one) for one in text)
    assert gate.is_lost
    assert text.startswith(given)
    assert gate.held.strip()


def test_lines_of_code_may_be_alike() -> None:
    gate = SentenceGate("```c\n")
    gate.feed("while (true) {\n}\nreturn;\nreturn;\nreturn;\nreturn;\n```\nDone. And")
    assert not gate.is_lost
    lines = "".join(f"    int value_{one} = read_value({one});\n" for one in range(9))
    ends = "            </div>\n        </div>\n    </div>\n"
    gate = SentenceGate("```c\n")
    assert gate.feed(lines + ends + "x").count("\n") == 11
    assert not gate.is_lost


@pytest.mark.parametrize(
    "lines", ["    image: my-image.heroku\n", "#  backup.sh --home=/home\n#\n"]
)
def test_a_fourth_copy_of_long_lines_of_code_does_not_pass(lines: str) -> None:
    gate = SentenceGate("```yaml\nservices:\n")
    given = gate.feed(lines * 5)
    assert gate.is_lost
    assert given.count(lines.partition("\n")[0]) < 4


def test_a_fourth_row_of_a_table_does_not_pass() -> None:
    gate = SentenceGate("| a | b |\n|---|---|\n")
    assert gate.feed("| green tea | hot |\n" * 5).count("green") == 1
    assert gate.is_lost


@pytest.mark.parametrize(
    ("passed", "text", "given"),
    [
        ("- Cocoa\n- 奶茶\n", "- 奶茶\n- Cocoa\n- Juice\n-", "- 奶茶\n- Cocoa\n- Juice"),
        ("- Cocoa\n- 奶茶\n", "- Juice\n- Cocoa\n- 奶茶\n", "- Juice"),
        ("She came. He left.", " She came. It rained. He left. And", " She came. It rained."),
        ("```css\n  color: darkred;\n", "}\np {\n  color: darkred;\n}\nq", None),
    ],
)
def test_what_was_said_before_passes_with_what_is_new(
    passed: str, text: str, given: str | None
) -> None:
    gate = SentenceGate(passed)
    assert "".join(gate.feed(one) for one in text) == (text[:-2] if given is None else given)
    assert not gate.is_lost


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        ("", "- {}\n"),
        ("| name | what it is |\n|---|---|\n", "| {} | not known |\n"),
        ("", "She met {}. "),
        ("", "他遇见了{}。"),
    ],
)
def test_many_old_sentences_in_whatever_order_lead_nowhere(passed: str, text: str) -> None:
    names = [name for _, name in NAMES[:5]]
    gate = SentenceGate(passed + "".join(map(text.format, names)))
    orders = [names[at:] + names[:at] for at in (3, 1, 4, 2)]
    given = gate.feed("".join([text.format(name) for order in orders for name in order]))
    assert gate.is_lost
    assert given == ""


def test_long_items_without_a_mark_at_their_end_pass_one_by_one() -> None:
    items = [f"{number}. The world of {name} as he himself described it" for number, name in NAMES]
    gate, passed = SentenceGate("Books:\n\n"), ""
    for item in items:
        assert len(item) > 40
        passed += gate.feed(item + "\n")
        assert passed.endswith(item) or gate.held.strip() == item
    assert passed + gate.finish() == "\n".join(items)


def test_copies_that_passed_before_do_not_hold_what_comes() -> None:
    gate = SentenceGate("He left. He left. He left.")
    assert gate.feed(" She came. And") == " She came."
    assert not gate.is_lost
    gate = SentenceGate("He left. He left.")
    assert gate.feed(" He left. And") == ""
    assert gate.is_lost


@pytest.mark.parametrize(
    "text",
    [
        "你可以看到你的独行，你可以看到你的独行＀＃．＃＃．！",
        "你可以看到我；：，。你可以看到你。",
        "👍？❌👍👍❌👍❌❌👍！👍👍👁👁👁👉👉👉👋👋👋👏👏",
        "wise old wise wise wise wise smart wise wise wise wise",
        "[Your Title Top Top Top Toptop Top Top Top Top Top Top]",
        "[Your Phone Number]\n[Your [Your [Your [Your [Your",
        "春天；；；，我们无法看春天。",
        "帮劳我们福制；，帮劳我们福制。",
        "如果有珍\ufffdaco，可以帮我们。",
        "药物药物＃＃＃！＃＃＋＃＃＆＆＆！＆＆＊＆＆",
        "眎眎；；；眎；！！！＃＃＃！＃！！",
        "好好好好好好好好好",
        "Cape Verde11112111222344",
        "10. 锐烂醫烏",
        "我意外，意盗和犧bug！",
        "这个国家的經濟和她的历史，他们说這樣就会越来越好，我们都这么认为",
        "8. What 's the return policy?",
        '3. FAQ: "What\'a a FAQ?"',
    ],
)
def test_text_of_a_model_that_has_lost_its_language_does_not_pass(text: str) -> None:
    assert is_garbled(text)
    gate = SentenceGate("This is the list.")
    passed = gate.feed(f" The cat came. {text}.\nThe dog came. And")
    assert gate.is_lost
    assert text not in passed


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "No... wait... what?! You're sure!!!",
        'She said: "No!" -- and then (of course) "Yes?"',
        "《红楼梦》、《西游记》、《水浒传》、《三国演义》。",
        "我，你，他，她，它，我们，你们，他们，大家。",
        "A, B, C, D, E, F, G, H, I, J, K, L",
        "2 + 2 = 4; 3 * (4 - 1) = 9; x^2 >= 0",
        "Row, row, row your boat, gently down the stream.",
        "- **Bold:** *yes!*\n- **Next:** (see below)",
        "The F16, the RTX4090 and ISO9001 are names.",
        "🍎🍌🍇🍉🍓🍒🍍🥝",
        "他说：“好！”她笑了……“真的吗？！”",
        "這個國家的經濟越來越好，我們都這麼認為。",
        "张喆和李明是这个城市里最有名的两位医生，他们的故事大家都听说过。",
        "日本の歴史について、これから詳しく説明します。",
        "What's the letter 's' for? It's in the '70s, and we're rock 'n' roll.",
        "He couldn't've said it: y'all, ma'am, o'clock; l'a dit, qu'a-t-il.",
    ],
)
def test_language_is_not_garbled(text: str) -> None:
    assert not is_garbled(text)


def test_rows_and_code_may_be_marks() -> None:
    gate = SentenceGate("Here it is:\n\n")
    gate.feed(
        "| !! | ;; | ,, |\n|---|---|---|\n| ;; | ;; | ;; |\n\n```\n;;;;;;!!!!;;;;\n```\nDone. And"
    )
    assert not gate.is_lost


def test_a_text_does_not_end_with_what_it_has_just_said() -> None:
    gate = SentenceGate("Pack:\n\n* A map: one\n")
    assert gate.feed("* A camera: one\n* A camera: one\n") == "* A camera: one"
    assert gate.finish() == ""
    gate = SentenceGate("Pack:\n\n* A map: one\n")
    text = "* A camera: one\n* A camera: one\n* A pen: two\n"
    assert gate.feed(text) + gate.finish() == text.rstrip()


JS = """Here:

```js
app.add(item, {id: 1}, () => {
    app.run({
        id: 1,  // it's (one
        name: "a { b",
"""


@pytest.mark.parametrize(
    ("text", "closing"),
    [
        (JS, "    })\n})\n```"),
        (JS.rstrip(), "\n    })\n})\n```"),
        ("```css\np {\n  color: #fff;\n  background: url(http://a.b/c);\n", "}\n```"),
        ("```python\ndef f():\n    return {1: 2}\n", "```"),
        ("```python\nx = f(1,\n", "```"),
        ("```js\nf(() => { /* {\n{ */\n    g({\n", "    })\n})\n```"),
        ("```js\nf(() => {\n    return /*\n", "```"),
        ("```c\nint main() {\n    return 0;\n}\n}\nvoid f() {\n", "```"),  # odd
        ('Here:\n\n```json\n{\n  "author": "A.A.S.', '"\n}\n```'),
        ('```json\n[{"author": "say \\"Mo', '"\n}]\n```'),
        ('```json\n{\n  "author": "A.A.S."', "\n}\n```"),
    ],
)
def test_open_blocks_of_code_are_closed(text: str, closing: str) -> None:
    assert closing_of(text, "```") == closing


def test_an_empty_emphasis_does_not_pass() -> None:
    gate = SentenceGate("Day 5:\n\n")
    given = gate.feed("* 安鸟猪\n**\n\nDay 6:\n")
    assert gate.is_lost
    assert given == "* 安鸟猪"


def test_clauses_that_were_said_before_say_nothing_new() -> None:
    gate = SentenceGate("我不知道怎么办。你可以用我来办。")
    assert gate.feed("你可以用我来办，我不知道怎么办。我") == ""
    gate = SentenceGate("They saw Texas, Arizona, New Mexico.")
    assert gate.feed(" They saw Texas, New Mexico, Arizona. So they ") == ""
    assert gate.feed("saw Utah. And") == " They saw Texas, New Mexico, Arizona. So they saw Utah."


@pytest.mark.parametrize(
    ("passed", "text", "is_lost"),
    [
        ("Guest: \"I'm not sure.", " I'm not sure. What is it? And", True),
        ("他走了。我不知道。", "我不知道。她来了。她", True),
        ("He left. She came.", " He left again. And", False),
        ("- Milk\n", "- Milk tea\n- Rum\n-", False),
        ("It is made from a type of meat", " of meat. It", True),
        ("It is made from a type of meat", " of red meat. It", False),
        ("1. 客户：1111111111", "1111111\n2. 说明：", True),
        ("1. 客户：1111111111", "2222222\n2. 说明：", False),
    ],
)
def test_what_stands_before_the_seam_is_not_said_again(
    passed: str, text: str, is_lost: bool
) -> None:
    gate = SentenceGate(passed)
    given = gate.feed(text)
    assert gate.is_lost is is_lost
    assert bool(given) is not is_lost
