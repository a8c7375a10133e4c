"""The local engine with the demo model: over a real socket with the openai client, and against `generate`."""

import asyncio
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from server.engines.local import DEMO_MODEL, LocalEngine, Sampling, choose
from server.errors import ApiError
from server.schema import parse
from tests.demo_server import serving

ENGLISH = "It was a cold and foggy morning when the stranger knocked at our door."
CHINESE = "夜深了，屋里只点着一盏灯。"
OFF = {"repetition": {"policy": "off"}}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def ask(client: openai.OpenAI, prompt: str, extra: dict[str, Any] | None = None, **parameters: Any) -> Any:
    messages: Any = [{"role": "user", "content": prompt}]
    return client.chat.completions.create(model="demo", messages=messages, extra_body={**OFF, **(extra or {})}, **parameters)


@pytest.mark.parametrize("prompt", [ENGLISH, CHINESE])
def test_greedy_is_what_generate_gives(client: openai.OpenAI, prompt: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    inputs = tokenizer(prompt, return_tensors="pt")
    expected = model.generate(**inputs, max_new_tokens=60, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    done = client.completions.create(model="demo", prompt=prompt, max_tokens=60, temperature=0, extra_body=OFF)
    text = tokenizer.decode(expected, skip_special_tokens=True)
    assert done.choices[0].text.rstrip("\ufffd") == text.rstrip("\ufffd")
    assert done.choices[0].finish_reason == "length"
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (inputs["input_ids"].shape[1], 60)


@pytest.mark.parametrize("prompt", [ENGLISH, CHINESE])
def test_streamed_and_not_are_the_same_text(client: openai.OpenAI, prompt: str) -> None:
    for policy in ("off", "balanced"):
        extra = {"repetition": {"policy": policy}}
        whole = ask(client, prompt, extra, max_tokens=120, temperature=0).choices[0]
        parts, reason, usage = [], None, None
        options: Any = {"include_usage": True}
        for chunk in ask(client, prompt, extra, max_tokens=120, temperature=0, stream=True, stream_options=options):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                parts.append(choice.delta.content or "")
                reason = choice.finish_reason or reason
        assert "".join(parts) == whole.message.content
        assert reason == whole.finish_reason
        assert usage is not None


def test_a_looping_answer_is_cut_and_says_so(client: openai.OpenAI) -> None:
    extra = {"repetition": {"policy": "balanced"}}
    choices = [ask(client, prompt, extra, max_tokens=256, temperature=0).choices[0] for prompt in (ENGLISH, CHINESE, "春天到了。")]
    cut = [choice for choice in choices if choice.model_extra.get("stop_reason") == "repetition_detected"]
    assert cut
    for choice in cut:
        assert choice.finish_reason == "stop"
        assert choice.model_extra["repetition"]["removed_chars"] > 0


def test_a_seed_gives_the_same_text_whatever_else_runs(client: openai.OpenAI) -> None:
    alone = ask(client, ENGLISH, max_tokens=40, seed=7).choices[0].message.content
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(ask, client, ENGLISH, max_tokens=40, seed=seed) for seed in (7, 8, 7, 9, 7, 10)]
    texts = [job.result().choices[0].message.content for job in jobs]
    assert texts[0] == texts[2] == texts[4] == alone
    assert len(set(texts)) > 1


def test_n_choices_differ_and_several_prompts_are_answered_in_order(client: openai.OpenAI) -> None:
    done = ask(client, ENGLISH, max_tokens=20, n=3, seed=1)
    assert [choice.index for choice in done.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in done.choices}) == 3
    several = client.completions.create(model="demo", prompt=[ENGLISH, CHINESE], max_tokens=8, temperature=0, extra_body=OFF)
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.choices[0].text.isascii()
    assert not several.choices[1].text.isascii()


def test_a_stop_string_ends_the_text_before_it_even_across_tokens(client: openai.OpenAI) -> None:
    text = ask(client, ENGLISH, max_tokens=60, temperature=0).choices[0].message.content
    stop = text[31:43]
    stopped = ask(client, ENGLISH, max_tokens=60, temperature=0, stop=[stop, "never said"]).choices[0]
    assert stopped.message.content == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_every_parameter_against_repetition_does_something(client: openai.OpenAI) -> None:
    plain = ask(client, ENGLISH, max_tokens=120, temperature=0).choices[0].message.content
    for name, value in [
        ("repetition_penalty", 1.5),
        ("no_repeat_ngram_size", 2),
        ("dry_multiplier", 2.0),
        ("presence_penalty", 2.0),
        ("frequency_penalty", 2.0),
    ]:
        changed = ask(client, ENGLISH, {name: value}, max_tokens=120, temperature=0).choices[0].message.content
        assert changed != plain, name


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra": {"mirostat": 2}}, "mirostat"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"extra": {"dry_base": "high"}}, "dry_base"),
    ],
)
def test_what_it_cannot_do_is_named(client: openai.OpenAI, parameters: dict[str, Any], named: str) -> None:
    extra = parameters.pop("extra", None)
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, ENGLISH, extra, **parameters)
    assert refused.value.param == named
    assert named in refused.value.message


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="1024") as refused:
        ask(client, "morning " * 2000)
    assert refused.value.code == "context_length_exceeded"


def test_an_unknown_model_is_a_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="demo"):
        client.chat.completions.create(model="gpt-x", messages=[{"role": "user", "content": "Hello"}])


def test_a_client_that_leaves_frees_its_place(client: openai.OpenAI, url: str) -> None:
    """More clients than there are places leave in mid-stream; the next is answered, and nothing runs on."""
    for _ in range(6):
        with ask(client, ENGLISH, {"no_repeat_ngram_size": 3}, max_tokens=900, stream=True) as stream:
            next(iter(stream))
    assert ask(client, ENGLISH, max_tokens=5).choices[0].message.content
    for _ in range(50):
        with urllib.request.urlopen(f"{url}/metrics") as response:
            if b'dedup_streams_in_progress{model="demo"} 0.0' in response.read():
                return
        time.sleep(0.1)
    pytest.fail("a generation goes on without a reader")


def test_no_finite_score_is_an_error_and_never_token_0() -> None:
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, penalties=None)  # type: ignore[arg-type]
    for wrong in (float("-inf"), float("nan")):
        with pytest.raises(ApiError):
            choose(torch.full((8,), wrong), sampling, torch.Generator())


async def test_a_model_without_a_chat_template_says_how_to_give_one() -> None:
    engine = LocalEngine(str(DEMO_MODEL))
    await engine.start()
    engine._tokenizer.chat_template = None
    with pytest.raises(ApiError, match="chat template"):
        engine.validate(parse("chat", {"messages": [{"role": "user", "content": "Hello"}]}))
    engine.validate(parse("completions", {"prompt": "Hello"}))
    await asyncio.wait_for(engine.stop(), 10)
