"""What is prose, what is code, what is data."""

import pytest

from dedup.text.form import form_of


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (
            "The river had risen in the night, and (so they said) the bridge was gone. Nobody slept!\n\n- boats\n- ropes\n",
            "prose",
        ),
        ("河水在夜里涨了起来，冲走了那座老桥。“谁也没见过，”老马说。\n", "prose"),
        ("See https://example.org/a?b=c&d=e#f and the option `--no-cache={dir}`, then go on as before.\n", "prose"),
        ("def area(r):\n    return math.pi * r ** 2\n\nfor r in (1, 2, 3):\n    print(f'{area(r):.2f}')\n", "code"),
        ("3.14 2.71 1.41 1.61 0.57 6.02 1.38 8.31 9.81 2.99\n", "code"),
        ("| day | guard |\n|---|---|\n| 1 | Meyer |\n| 2 | Meyer |\n", "data"),
        ("2026-03-01 09:00:12 WARN retrying\n2026-03-01 09:00:14 WARN retrying\n", "data"),
        ('{"id": 1, "state": "ready"}\n{"id": 2, "state": "ready"}\n', "data"),
        ("INSERT INTO stock (sku, qty) VALUES ('A-1', 10);\nINSERT INTO stock (sku, qty) VALUES ('A-2', 10);\n", "data"),
        ("", "data"),
    ],
)
def test_form(text: str, form: str) -> None:
    assert form_of(text) == form
