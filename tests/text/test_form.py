"""Prose, verse, notation, code and data."""

import pytest

from dedup.text.form import (
    Form,
    form_of,
    form_of_cycle,
    is_enclosed,
    is_in_comment,
    is_labelled,
    is_series,
    num_fences,
)

TEXTS: dict[str, tuple[Form, str]] = {
    "hard-wrapped": (
        "prose",
        "The river had risen in the night and taken\nthe bridge, so the mail did not come. Nobody in the\n"
        "village remembered such a flood, though old\nMarten swore that his father had seen one. By noon\n"
        "the water stood at the church door.\n",
    ),
    "Chinese": (
        "prose",
        "河水在夜里涨了起来，冲走了那座老桥，邮车没有来。\n村里没有人记得见过这样大的洪水，只有老马说他父亲见过一次。\n",
    ),
    "dialogue": (
        "prose",
        "“Did you hear it?” she asked.\n“No,” he said. “What was it?”\n“The bridge.”\n“Again?”\n",
    ),
    "list": (
        "prose",
        "- Close the windows on the ground floor\n- Carry the flour up to the loft\n- Let the dogs out\n"
        "- Wake the neighbours\n- Bring lamps and blankets\n",
    ),
    "numbered list": (
        "prose",
        "1. Close the windows\n2. Carry the flour up to the loft\n3. Let the dogs out\n4. Wake the neighbours\n5. Bring lamps\n",
    ),
    "subtitles": (
        "prose",
        "1\n00:00:02,000 --> 00:00:05,000\nSo we took the boat out past the second buoy.\n\n2\n"
        "00:00:05,000 --> 00:00:08,000\nThe water was quiet that morning.\n",
    ),
    "links and options": (
        "prose",
        "See https://example.org/a?b=c&d=e#f and the option `--no-cache={dir}`, then go on as before.\n",
    ),
    "German": (
        "prose",
        "Der Fluss war in der Nacht gestiegen und hatte die Brücke fortgerissen; niemand im Dorf erinnerte sich an eine solche Flut.\n",
    ),
    "Japanese": ("prose", "橋は夜のうちに流された。村では誰もそんな洪水を覚えていなかった。\n"),
    "Russian": (
        "prose",
        "Ночью река поднялась и снесла мост, и почта не пришла. Никто в деревне не помнил такого паводка.\n",
    ),
    "chat": (
        "prose",
        "[10:02] Anna: are you there?\n[10:03] Ben: yes, just woke up\n[10:03] Anna: the bridge is gone\n",
    ),
    "Markdown": (
        "prose",
        "# The flood\n\nThe river had **risen** in the night.\n\n> Nobody remembered *such* a flood.\n\n"
        "See [the report](https://example.org/r).\n",
    ),
    "song": (
        "verse",
        "I left my heart in Memphis\nI left my shoes in Rome\nThe road that took me far away\nWill bring me to my home\n",
    ),
    "hymn": (
        "verse",
        "Hallelujah, sing to Jesus\nHis the sceptre, his the throne\nHallelujah, his the triumph\nHis the victory alone\n",
    ),
    "Chinese poem": ("verse", "床前明月光\n疑是地上霜\n举头望明月\n低头思故乡\n"),
    "formulas": (
        "notation",
        "\\begin{align}\n\\sum_{i=1}^{n} x_i + \\sum_{j=1}^{m} y_j &= \\int_0^1 f(x)\\,dx + \\alpha^2 \\\\\n"
        "\\frac{a}{b} + \\frac{c}{d} &= \\sqrt{2}\n\\end{align}\n",
    ),
    "formulas in prose": (
        "notation",
        "We have $x_{1} + x_{2} + x_{3} = y_{1} + y_{2}$ and $\\alpha_{1} \\cdot \\beta_{2} = \\gamma^{3}$, so that $x_{1} - y_{1} = 0$.",
    ),
    "chords": ("notation", "G:maj | D:maj | E:min7 | C:maj | G:maj | D:maj | C:add9 | C:add9 |"),
    "hex dump": (
        "notation",
        "00000000: 7f45 4c46 0201 0100 0000 0000 0000 0000\n00000010: 0200 3e00 0100 0000 c032 4000 0000 0000\n",
    ),
    "diff": (
        "notation",
        "--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,2 @@\n-import os\n+import sys\n return\n",
    ),
    "chess moves": (
        "code",
        "1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6 5. O-O Be7 6. Re1 b5 7. Bb3 d6 8. c3 O-O",
    ),
    "Python": (
        "code",
        "def area(r):\n    return math.pi * r ** 2\n\nfor r in (1, 2, 3):\n    print(f'{area(r):.2f}')\n",
    ),
    "C": (
        "code",
        'int main(void) {\n  for (int i = 0; i < 10; i++) {\n    printf("%d\\n", i);\n  }\n  return 0;\n}\n',
    ),
    "HTML": ("code", '<ul>\n<li class="a">one</li>\n<li class="b">two</li>\n</ul>\n<p>three</p>\n'),
    "gettext": (
        "code",
        '#: src/main.c:10\nmsgid "Open"\nmsgstr ""\n\n#: src/main.c:20\nmsgid "Close"\nmsgstr ""\n',
    ),
    "JavaScript": ("code", "import { a } from 'b';\nconst x = a(1);\nexport default x;\n"),
    "table": ("data", "| day | guard |\n|---|---|\n| 1 | Meyer |\n| 2 | Meyer |\n"),
    "CSV": (
        "data",
        "id,name,state,since\n1,pump,ok,2026-01-03\n2,valve,ok,2026-01-04\n3,gate,ok,2026-01-05\n",
    ),
    "tab-separated": ("data", "id\tname\tstate\n1\tpump\tok\n2\tvalve\tok\n"),
    "log": ("data", "2026-03-01 09:00:12 WARN retrying\n2026-03-01 09:00:14 WARN retrying\n"),
    "JSON lines": ("data", '{"id": 1, "state": "ready"}\n{"id": 2, "state": "ready"}\n'),
    "JSON": ("data", '{\n  "a": [\n    "none",\n    "none"\n  ],\n  "b": {\n    "c": 1\n  }\n}\n'),
    "YAML": (
        "data",
        "services:\n  web:\n    image: nginx\n    restart: always\n  db:\n    image: postgres\n    restart: always\n",
    ),
    "settings": ("data", "host = localhost\nport = 5432\nuser = admin\nretries = 3\n"),
    "SQL": (
        "data",
        "INSERT INTO stock (sku, qty) VALUES ('A-1', 10);\nINSERT INTO stock (sku, qty) VALUES ('A-2', 10);\n",
    ),
    "Python stack trace": (
        "data",
        'Traceback (most recent call last):\n  File "a.py", line 3, in f\n    g()\n  File "a.py", line 7, in g\n    f()\n',
    ),
    "Java stack trace": (
        "data",
        "java.lang.StackOverflowError\n    at com.example.Tree.visit(Tree.java:31)\n"
        "    at com.example.Tree.visit(Tree.java:31)\n    at com.example.Tree.visit(Tree.java:31)\n",
    ),
    "blanks to fill in": (
        "data",
        "Name: ____________________\nDate: ____________________\nPlace: ____________________\n",
    ),
    "table of contents": (
        "data",
        "Chapter 1 ............................ 12\nChapter 2 ............................ 31\n",
    ),
    "base64": (
        "data",
        "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHxgljNBAAO9TXL0Y4OHwAAAABJRU5ErkJggg==",
    ),
    "sequence": (
        "data",
        "ATGGCCATTGTAATGGGCCGCTGAAAGGGTGCCCGATAGATGGCCATTGTAATGGGCCGCTGAAAGGGTGCCCGATAG",
    ),
    "ping": (
        "data",
        "64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.043 ms\n64 bytes from 10.0.0.1: icmp_seq=2 ttl=64 time=0.043 ms\n",
    ),
    "compiler messages": (
        "data",
        "main.c:10:5: warning: unused variable\nmain.c:12:5: warning: unused variable\n",
    ),
    "numbers": ("data", "3.14 2.71 1.41 1.61 0.57 6.02 1.38 8.31 9.81 2.99\n"),
    "nothing": ("data", ""),
}


@pytest.mark.parametrize("name", TEXTS)
def test_each_kind_of_text_has_its_form(name: str) -> None:
    form, text = TEXTS[name]
    assert form_of(text) == form


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_said_again_has_the_form_it_has(name: str) -> None:
    form, text = TEXTS[name]
    assert form_of((text + "\n") * 3) == form


PROSE = "The river had risen in the night and taken the bridge, so the mail did not come. "


@pytest.mark.parametrize(
    ("before", "unit", "form"),
    [
        (PROSE, "and so it was ", "prose"),
        ("", "and so it was ", "prose"),
        (PROSE, TEXTS["CSV"][1], "data"),
        (TEXTS["CSV"][1], PROSE + "\n\n" + PROSE + "\n", "prose"),
        (TEXTS["log"][1], "2026-03-01 09:00:16 WARN retrying\n", "data"),
        ('{"values": [0.25, ', "0.25, ", "data"),
        (PROSE + "The mask is [0, 1].", " and so it was", "prose"),
        (PROSE + "iVBORw0KGgoAAAANSUhEUg", "A", "data"),
        (PROSE + "The horse said N", "O", "data"),
        (PROSE + "He cried ", "no", "prose"),
        (TEXTS["song"][1], "Will bring me to my home\n", "verse"),
        (r"\begin{align} x + \sqrt{", r"\frac{a}{b} + ", "prose"),
        ("", '"metres",15\n"22",', "data"),
        (PROSE, "|\n| no | no ", "data"),
        ("", "年，他在《河水》中演的是“水手”（Ben White）。\n\n3. 2001", "prose"),
    ],
)
def test_a_cycle_has_the_form_of_its_own_lines_or_of_what_stands_before(
    before: str, unit: str, form: Form
) -> None:
    assert form_of_cycle(before, unit) == form


@pytest.mark.parametrize(
    ("before", "enclosed"),
    [
        ("[1, 2, ", True),
        ('{"a": [1], ', True),
        ("[1, 2] ", False),
        ("a } b", False),
        ("", False),
        ("f(x, ", False),
    ],
)
def test_text_within_a_bracket_is_enclosed(before: str, enclosed: bool) -> None:
    assert is_enclosed(before) == enclosed


@pytest.mark.parametrize(
    ("before", "commented"),
    [
        ("/*\n * The river ", True),
        ("    /** The river\n     * had risen ", True),
        ("/* The river */\nint x;\n/* had ", True),
        ("/* The river */\nint x", False),
        ("files in src/*", False),
        ("", False),
    ],
)
def test_text_within_a_comment_of_code_is_in_it(before: str, commented: bool) -> None:
    assert is_in_comment(before) == commented


@pytest.mark.parametrize(
    ("text", "num"), [("```python\nx\n```\n", 2), ("``", 0), ("a `b` c", 0), ("````", 1)]
)
def test_fences_are_counted(text: str, num: int) -> None:
    assert num_fences(text) == num


@pytest.mark.parametrize(
    "text",
    [
        "'M': where it begins\n'31,29': a corner\n'L': a line\n'34,76': a corner\n",
        "- **Moho**: draws\n\n- **Synfig**: draws\n\n- **Pencil**: draws\n",
        "1. Graz: rain.\n2. Linz: rain.\n3. Wels: rain.\n",
        "《论语》：语录。\n“孟子”：对话。\n（庄子）：寓言。\n",
    ],
)
def test_items_may_stand_under_labels_of_their_own(text: str) -> None:
    assert is_labelled(text)


@pytest.mark.parametrize(
    "text",
    [
        "Step 1: press it.\nStep 2: press it.\nStep 3: press it.\n",
        "2026-03-01: rain.\n2026-03-02: rain.\n2026-03-03: rain.\n",
        "第1步：按下按钮。\n第2步：按下按钮。\n第3步：按下按钮。\n",
        "Human: Go on.\nAI: I go on.\nHuman: Go on.\nAI: I go on.\nHuman: Go on.\n",
        "1. Press it.\n2. Press it.\n3. Press it.\n",
        "The mail came late: the bridge was gone.\n",
        "Nobody knew it.\nThe miller said: no.\nHe went home.\nIt rained.\nThe end: rain.\n",
    ],
)
def test_counters_speakers_and_clauses_are_no_labels_of_their_own(text: str) -> None:
    assert not is_labelled(text)


SERIES = [
    "Day {n}: {five} push-ups\n",
    "{n}. {five} push-ups\n",
    "- {n} °C = {tenth} °F\n",
    "第{n}天：跑步{five}公里\n",
    "In {year}, the town had {five} inhabitants. ",
    "Step {n}: swim {five} meters, ",
    "{n} x 7 = {seven}\n",
    "第{n}个月存{five}元，",
]
COUNTERS = [
    "Day {n}: press-ups\n",
    "{n}. The {n}th step is to write it down.\n",
    "- January {n}, {year}: born\n",
    "{n}:00 - {next}:00: a meeting\n",
    "Chapter {n}: it goes on\n",
    "{n}. Apple - $1.99\n",
    "{n}. {year}: the director of the comedy film, Brian White, played the part of the king in it, and was praised.\n",
]


def rows(row: str, first: int, last: int) -> str:
    return "".join(
        row.format(n=n, five=5 * n, seven=7 * n, tenth=n * 1.8, year=1900 + n, next=n + 1)
        for n in range(first, last + 1)
    )


@pytest.mark.parametrize("row", SERIES)
@pytest.mark.parametrize("first", [1, 3])
def test_rows_with_two_numbers_that_change_are_a_series(row: str, first: int) -> None:
    assert is_series(rows(row, first, 6))
    assert is_series(rows(row, first, 40))
    assert not is_series(rows(row, first, 70))  # nobody asked for so many


@pytest.mark.parametrize("row", COUNTERS)
def test_a_counter_a_date_and_a_time_are_one_number(row: str) -> None:
    assert not is_series(rows(row, 1, 12))
    assert not is_series(rows(row, 1, 40))
