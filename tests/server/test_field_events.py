"""Shapes of answers that public reports tell of, with texts of our own, through the whole proxy."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.field_upstream import Choice, Endpoint, FieldUpstream, Got, ask
from tests.server.mock_upstream import NOVEL, proxy, upstream

CIRCLES = "We walk around the same old barn. "
ITEM = '"The kettle was already cold."'
BIRDS = (
    "heron",
    "wren",
    "kite",
    "rook",
    "finch",
    "swift",
    "crane",
    "grebe",
    "owl",
    "plover",
    "dunlin",
    "tern",
)
JSON_MODE = {"response_format": {"type": "json_object"}}
CSS = "Why does the layout break?\n\n.board { display: grid; grid-template-columns: repeat(4, 1fr); }\n.board img { width: 9rem; }"


@pytest.fixture(scope="module")
def field() -> Iterator[FieldUpstream]:
    with upstream(FieldUpstream()) as field:
        assert isinstance(field, FieldUpstream)
        yield field


@pytest.fixture(scope="module")
def url(field: FieldUpstream) -> Iterator[str]:
    with proxy(field.url) as url:
        yield url


class Player:
    """Asks for an answer that the upstream is told to give."""

    def __init__(self, url: str, field: FieldUpstream) -> None:
        self.url = url
        self.field = field

    def all(
        self,
        *choices: Choice,
        prompt: str = "Please go on.",
        endpoint: Endpoint = "/v1/chat/completions",
        **body: Any,
    ) -> dict[int, Got]:
        self.field.choices = list(choices)
        body = {
            "stream": True,
            "n": len(choices),
            "messages": [{"role": "user", "content": prompt}],
            **body,
        }
        return ask(self.url, endpoint, body)

    def __call__(self, choice: Choice, **more: Any) -> Got:
        return self.all(choice, **more)[0]

    @property
    def share(self) -> float:
        return self.field.share


@pytest.fixture
def play(url: str, field: FieldUpstream) -> Player:
    return Player(url, field)


def call(arguments: str, index: int = 0) -> tuple[Any, Any]:
    return "tool", (index, "save", arguments)


def kind_of(got: Got) -> Any:
    return got.repetition and got.repetition["loop"] and got.repetition["loop"]["kind"]


ENDPOINTS = pytest.mark.parametrize(
    ("endpoint", "calls", "stop", "length"),
    [
        ("/v1/chat/completions", "tool_calls", "stop", "length"),
        ("/v1/messages", "tool_use", "end_turn", "max_tokens"),
    ],
)
Names = tuple[Endpoint, str, str, str]


@ENDPOINTS
def test_a_loop_in_tool_arguments_ends_as_incomplete(
    play: Player, endpoint: Endpoint, calls: str, stop: str, length: str
) -> None:
    arguments = (
        '{"path": "notes.md", "content": "# Notes\\n\\n'
        + "- Ask the miller about the rope.\\n" * 150
        + '"}'
    )
    got = play(
        Choice([("content", "I will save the notes."), call(arguments)], "tool_calls"),
        endpoint=endpoint,
    )
    assert (got.finish_reason, kind_of(got)) == (length, "exact")
    assert got.content == "I will save the notes."
    assert play.share < 0.5


@ENDPOINTS
def test_arguments_that_are_complete_before_their_loop_are_a_call(
    play: Player, endpoint: Endpoint, calls: str, stop: str, length: str
) -> None:
    arguments = '{"path": "notes.md", "lines": [1, 2]}'
    got = play(Choice([call(arguments + "\n" * 4000)], "length"), endpoint=endpoint)
    assert (got.finish_reason, kind_of(got)) == (calls, "flood")
    assert [json.loads(one) for one in got.arguments.values()] == [json.loads(arguments)]
    assert play.share < 0.5


@ENDPOINTS
@pytest.mark.parametrize(
    "arguments",
    [
        json.dumps({"board": {"width": 9, "cells": [None] * 27}, "turn": "o"}),
        json.dumps(
            {
                "path": "map.json",
                "content": json.dumps({"rows": [[0, 0, 0, 0]] * 6, "open": [None] * 20}),
            }
        ),
        json.dumps({"ids": list(range(1, 90))}),
        json.dumps({"birds": [{"name": bird, "seen": False, "note": None} for bird in BIRDS]}),
    ],
    ids=["nulls", "JSON in a string", "numbers", "objects of a form"],
)
def test_arguments_that_only_look_alike_come_whole(
    play: Player, endpoint: Endpoint, calls: str, stop: str, length: str, arguments: str
) -> None:
    got = play(Choice([call(arguments)], "tool_calls"), endpoint=endpoint)
    assert (got.finish_reason, list(got.arguments.values())) == (calls, [arguments])
    assert got.repetition is None


@ENDPOINTS
def test_a_loop_of_text_before_a_call_ends_the_answer(
    play: Player, endpoint: Endpoint, calls: str, stop: str, length: str
) -> None:
    said = "The patch is ready, and I will send it. " + "anvil " * 500
    got = play(
        Choice([("content", said), call('{"cmd": "git push"}')], "tool_calls"), endpoint=endpoint
    )
    assert (got.finish_reason, kind_of(got)) == (stop, "exact")
    assert said.startswith(got.content)
    assert not got.arguments
    assert play.share < 0.2


@ENDPOINTS
def test_a_call_that_was_complete_before_text_loops_is_a_call(
    play: Player, endpoint: Endpoint, calls: str, stop: str, length: str
) -> None:
    parts = [call('{"cmd": "git push"}'), ("content", CIRCLES * 80)]
    got = play(Choice(parts, "length"), endpoint=endpoint)
    assert (got.finish_reason, list(got.arguments.values())) == (calls, ['{"cmd": "git push"}'])


def test_half_a_call_beside_text_that_loops_is_incomplete(field: FieldUpstream) -> None:
    """The call comes behind the loop, in a body that is all there."""
    choice = Choice([("content", CIRCLES * 80), call('{"cmd": "git pu')], "length")
    with proxy(field.url, stream_upstream=False) as url:
        got = Player(url, field)(choice, stream=False)
    assert (got.finish_reason, kind_of(got)) == ("length", "exact")


@ENDPOINTS
def test_thoughts_that_loop_without_an_answer_are_incomplete(
    play: Player, endpoint: Endpoint, calls: str, stop: str, length: str
) -> None:
    got = play(Choice([("reasoning", "Let me look. " + CIRCLES * 80)], "length"), endpoint=endpoint)
    assert (got.finish_reason, kind_of(got), got.content) == (length, "exact", "")
    assert play.share < 0.5


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("flood", ["\n", " ", "\t\n", "\n  "])
def test_json_mode_that_runs_on_in_whitespace_is_complete(
    play: Player, flood: str, stream: bool
) -> None:
    wanted = {"name": "Ines", "tools": ["saw", "plane"], "size": 7}
    text = json.dumps(wanted, indent=2)
    got = play(Choice([("content", text + flood * 3000)], "length"), stream=stream, **JSON_MODE)
    assert (got.finish_reason, json.loads(got.content)) == ("stop", wanted)
    assert got.repetition
    if stream:
        assert play.share < 0.5


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        '{"notes": ["The rain began at noon.", "Nobody came.", ' + ", ".join([ITEM] * 80),
        '{"size": 0.' + "3" * 4000,
        '{"name": "Ines"' + "\n" * 3000,
        "3." + "14" * 2000,
    ],
    ids=["items", "digits", "whitespace in mid-object", "a number"],
)
def test_json_mode_that_loops_in_mid_json_is_incomplete(
    play: Player, text: str, stream: bool
) -> None:
    got = play(Choice([("content", text)], "length"), stream=stream, **JSON_MODE)
    assert got.finish_reason == "length"
    assert got.repetition
    assert got.repetition["loop"]["channel"] == "content"


def test_json_mode_is_never_edited(play: Player) -> None:
    text = json.dumps({"a": [NOVEL, NOVEL], "b": {"text": NOVEL, "none": [None] * 30}})
    got = play(Choice([("content", text)]), **JSON_MODE)
    assert (got.content, got.finish_reason, got.repetition) == (text, "stop", None)


def test_of_two_choices_one_loops(play: Player) -> None:
    whole = Choice([("content", NOVEL)])
    one, other = play.all(
        Choice([("content", "Far out on the moor. " + CIRCLES * 60)], "length"), whole
    ).values()
    assert (one.finish_reason, kind_of(one)) == ("stop", "exact")
    assert (other.content, other.finish_reason, other.repetition) == (NOVEL, "stop", None)


@pytest.mark.parametrize(
    "prompt",
    [
        CSS,
        "The upload failed 3 times. What now?",
        "Do not repeat yourself.",
        "What does `for i in range(500): print('ha')` do?",
        "Why does my phone repeat the same tone over and over?",
    ],
)
def test_prompts_that_ask_for_no_repetition_do_not_allow_it(play: Player, prompt: str) -> None:
    got = play(Choice([("content", NOVEL + " " + CIRCLES * 100)], "length"), prompt=prompt)
    assert (got.finish_reason, kind_of(got)) == ("stop", "exact")
    assert got.repetition
    assert "requested" not in got.repetition
    assert play.share < 0.2


@ENDPOINTS
def test_what_a_prompt_asks_for_comes_and_no_more(
    play: Player, endpoint: Endpoint, calls: str, stop: str, length: str
) -> None:
    prompt = f"Write '{CIRCLES.strip()}' 20 times."
    asked = Choice([("content", CIRCLES * 20)])
    got = play(asked, prompt=prompt, endpoint=endpoint)
    assert (got.content, got.finish_reason) == (CIRCLES * 20, stop)
    assert got.repetition
    assert got.repetition["removed_chars"] == 0
    got = play(Choice([("content", CIRCLES * 200)], "length"), prompt=prompt, endpoint=endpoint)
    assert 20 <= got.content.count(CIRCLES) < 40
    assert got.finish_reason == stop
    assert got.repetition
    assert got.repetition["requested"] == {"reason": "copies", "copies": 24}


def test_an_earlier_request_for_copies_is_over(play: Player) -> None:
    messages = [
        {"role": "user", "content": f"Write '{CIRCLES.strip()}' 500 times."},
        {"role": "assistant", "content": CIRCLES * 9},
        {"role": "user", "content": "Thank you. Now tell me about the barn."},
    ]
    got = play(Choice([("content", NOVEL + " " + CIRCLES * 60)], "length"), messages=messages)
    assert kind_of(got) == "exact"
    assert got.repetition
    assert "requested" not in got.repetition


def test_a_request_holds_while_its_tools_are_called(play: Player) -> None:
    call = {"id": "t", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": f"Look it up, then write '{CIRCLES.strip()}' 20 times."}
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t", "content": "found"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
    ]
    got = play(Choice([("content", CIRCLES * 20)]), messages=messages)
    assert got.content == CIRCLES * 20


LETTER = f"Dear neighbour,\n\n{NOVEL} We will build another one when the water is down.\n\nYours,\nthe miller"
STRICT = {"repetition": {"policy": "strict"}}


@pytest.mark.parametrize(
    ("prompt", "comes"),
    [
        ("You forgot the date. Please write the whole letter again with it.", True),
        ("Rewrite it with a date.", True),
        ("请把整封信再写一遍，加上日期。", True),
        ("What else is there to say?", False),
        ("Do not write the letter again. What else is there to say?", False),
        ("还有什么要说的？不要再写一遍。", False),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_strict_leaves_what_is_asked_for_again(
    play: Player, prompt: str, comes: bool, stream: bool
) -> None:
    messages = [
        {"role": "user", "content": "Write to my neighbour."},
        {"role": "assistant", "content": LETTER},
        {"role": "user", "content": prompt},
    ]
    got = play(Choice([("content", LETTER)]), messages=messages, stream=stream, **STRICT)
    assert (got.content == LETTER) is comes
