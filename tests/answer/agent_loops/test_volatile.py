"""Results that are the same but for times, ids, durations and counters."""

import pytest

from dedup.answer.agent_loops.volatile import (
    differ_only_in_volatile,
    known_spans,
    volatile_spans,
)

SAME = [
    ("Fri, 28 Nov 2026 10:03:04 GMT ok", "Sat, 29 Nov 2026 11:03:04 GMT ok"),
    ("at 2026-11-28T10:03:04.123Z: no change", "at 2026-11-28T10:04:59.001Z: no change"),
    ("2026年11月28日 10:03 无变化", "2026年11月29日 11:04 无变化"),
    ("last seen 10:03 PM", "last seen 9:04 PM"),
    ('{"ts":1732789012,"v":2}', '{"ts":1732789099,"v":2}'),
    ("elapsed: 3.2s (ok)", "elapsed: 12.9s (ok)"),
    ("took 980ms", "took 1.02s"),
    ("耗时 123 毫秒 无结果", "耗时 98 毫秒 无结果"),
    ("uptime 3 days, 4 hours", "uptime 3 days, 5 hours"),
    ("Created ticket TCK-8fk2a9", "Created ticket TCK-91xq3z"),
    ('{"job_id": 45, "state": "none"}', '{"job_id": 46, "state": "none"}'),
    (
        '"requestId": "8d7f6a5e-1b2c-4d3e-9f8a-7b6c5d4e3f2a"',
        '"requestId": "0d7f6a5e-1b2c-4d3e-9f8a-7b6c5d4e3f2b"',
    ),
    ("<Widget at 0x7f3a12bc>", "<Widget at 0x7f3b99bc>"),
    ("HEAD is at a1b2c3d", "HEAD is at 9f8e7d6"),
    ("Chunk ID: c91e02\nno output", "Chunk ID: 2ecksx\nno output"),
    ("attempt 3 failed", "attempt 4 failed"),
    ("第3次尝试失败", "第4次尝试失败"),
    ("called 3 times", "called 4 times"),
]
OTHER = [
    ("status: running 45%", "status: running 46%"),
    ("3 of 8 done", "4 of 8 done"),
    ("tests 12/40", "tests 13/40"),
    ('{"progress": 45}', '{"progress": 46}'),
    ("Page 3: birds", "Page 4: birds"),
    ("chapter12 is", "chapter13 is"),
    ("line 12: error", "line 14: error"),
    ("得分 95分", "得分 96分"),
    ("temperature 21 C", "temperature 22 C"),
    ("v1.2.3", "v1.2.4"),
    ("Total: $45.10", "Total: $46.10"),
    ('{"user":"u1","ok":true}', '{"user":"u2","ok":true}'),
    ('{"ts":1732789012,"v":2}', '{"ts":1732789099,"v":3}'),
    ("done", "done."),
    ("", "ok"),
    ("running", "finished"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_only_volatile_values_differ(one: str, other: str) -> None:
    assert differ_only_in_volatile(one, other)
    assert differ_only_in_volatile(other, one)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_something_has_changed(one: str, other: str) -> None:
    assert not differ_only_in_volatile(one, other)
    assert not differ_only_in_volatile(other, one)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_differed_once_is_compared_at_its_place(one: str, other: str) -> None:
    around = "The same text before. {} The same text behind."
    first, second = around.format(one), around.format(other)
    spans = volatile_spans(first, second)
    assert spans
    assert known_spans(second, first, spans, any_number=False) is not None
    assert known_spans(second + " And more.", first, spans, any_number=False) is None
    changed = second.replace("before", "after")
    assert known_spans(changed, first, spans, any_number=False) is None
    assert known_spans(second, first, None, any_number=False) is None
