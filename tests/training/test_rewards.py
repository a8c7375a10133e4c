"""Rewards: 0 for what the filter leaves alone, negative from a loop's second copy on."""

import importlib.util
import inspect
import json
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dedup.training.rewards
from dedup import FilterConfig, RepetitionFilter
from dedup.training import RepetitionReward

TEXTS = [
    (row["id"], row["kind"], "".join(part * times for part, times in row["parts"]))
    for row in map(
        json.loads,
        Path("benchmarks/filter_texts.jsonl").read_text(encoding="utf-8").splitlines(),
    )
    if not any("{i}" in part for part, _ in row["parts"])
]
LEAD = "The harbour lay quiet under the first snow of the year. "
LINE = "The captain looked at the sky and said nothing. "
LOOP = LEAD + LINE * 12


@pytest.mark.parametrize(("name", "kind", "text"), TEXTS, ids=[name for name, _, _ in TEXTS])
def test_loops_are_punished_and_nothing_else(name: str, kind: str, text: str) -> None:
    reward = RepetitionReward().score(text)
    assert (reward < 0) is (kind == "loop")
    assert -1 <= reward <= 0


@settings(max_examples=40)
@given(st.integers(0, 40), st.integers(0, len(LINE)))
def test_a_longer_loop_is_punished_more(copies: int, rest: int) -> None:
    text = LEAD + LINE * copies + LINE[:rest]
    score = RepetitionReward().score
    assert -1 < score(text + LINE) <= score(text) <= 0


def test_the_reward_is_the_share_from_the_second_copy_on() -> None:
    text_filter = RepetitionFilter(FilterConfig(policy="loops"))
    text_filter.feed(LOOP)
    assert text_filter.loop is not None
    removed = len(LOOP) - text_filter.loop.onset - text_filter.loop.period
    assert RepetitionReward().score(LOOP) == pytest.approx(-removed / len(LOOP))
    assert RepetitionReward(-0.5).score(LOOP) == pytest.approx(-0.5 * removed / len(LOOP))


def test_repetition_that_the_prompt_asks_for_is_spared() -> None:
    lines = "I will not talk in class.\n" * 20
    reward = RepetitionReward()
    asked = "Write the line 'I will not talk in class.' 20 times."
    assert reward.score(lines) < 0
    assert reward.score(lines, asked) == 0
    assert reward.score(lines, [{"role": "user", "content": asked}]) == 0


def test_trl_calls_it_with_strings_and_with_messages() -> None:
    reward = RepetitionReward()
    assert reward.__name__ == "repetition_reward"
    strings = reward(["Go on."] * 2, [LEAD, LOOP], completion_ids=[[1], [2]], trainer_state=None)
    assert strings[0] == 0 > strings[1]
    prompt = [{"role": "user", "content": "Go on."}]
    answers = [[{"role": "assistant", "content": text}] for text in (LEAD, LOOP)]
    assert reward(prompts=[prompt] * 2, completions=answers) == strings


def test_only_what_the_model_generated_counts() -> None:
    score = RepetitionReward().score
    called = {"role": "assistant", "content": None, "tool_calls": []}
    result = {"role": "tool", "content": LOOP}
    parts = {"role": "assistant", "content": [{"type": "text", "text": LEAD}, {"type": "image"}]}
    assert score([called, result, parts]) == 0
    thought = {"role": "assistant", "reasoning_content": LOOP, "content": LEAD}
    assert 0 > score([thought]) > score(LOOP)
    assert score("") == score([]) == 0


@pytest.mark.parametrize("penalty", [0.0, 1.0, float("-inf"), float("nan")])
def test_a_penalty_is_negative(penalty: float) -> None:
    with pytest.raises(ValueError, match="max_penalty"):
        RepetitionReward(penalty)


def test_it_can_be_pickled() -> None:
    reward = pickle.loads(pickle.dumps(RepetitionReward(-2.0)))
    assert reward([""], [LOOP]) == RepetitionReward(-2.0)([""], [LOOP])


def loaded_by_path() -> ModuleType:
    """Load the module as verl and OpenRLHF do."""
    path = inspect.getsourcefile(dedup.training.rewards)
    assert path is not None
    spec = importlib.util.spec_from_file_location("reward_func", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("info", [None, {}, {"index": 3}, {"prompt": "Go on."}, {"question": None}])
def test_verl_calls_it(info: dict[str, Any] | None) -> None:
    compute_score = loaded_by_path().compute_score
    found = compute_score(
        data_source="loops", solution_str=LOOP, ground_truth=None, extra_info=info
    )
    assert found == RepetitionReward().score(LOOP)
    assert compute_score("loops", LEAD, "", info, reward_router_address="somewhere") == 0
    assert compute_score("loops", LOOP, "", info, max_penalty=-3.0) == pytest.approx(3 * found)


def test_verl_passes_the_prompt_in_the_extra_info() -> None:
    compute_score = loaded_by_path().compute_score
    asked = "Write the line 'I will not talk in class.' 20 times."
    lines = "I will not talk in class.\n" * 20
    assert compute_score("lines", lines, "") < 0
    for info in (
        {"question": asked},
        {"prompt": asked},
        {"prompt": [{"role": "user", "content": asked}]},
    ):
        assert compute_score("lines", lines, "", info) == 0


def test_openrlhf_calls_it() -> None:
    prompt = f"<s>user\n{LINE * 3}\nassistant\n"
    queries = [
        prompt + LEAD,
        prompt + LOOP,
        "<s>" + prompt + LOOP,
        prompt.replace("\n", " ") + LOOP,
    ]
    found = loaded_by_path().reward_func(queries, [prompt] * 4, ["", "", "", ""])
    assert found["rewards"].shape == found["scores"].shape == (4,)
    once, *loops = found["rewards"].tolist()
    assert once == 0
    assert loops == pytest.approx([RepetitionReward().score(LOOP)] * 3)
