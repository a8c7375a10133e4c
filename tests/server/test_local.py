"""The local engine: with the demo model over a real socket with the openai client, and by itself with tiny models."""

import asyncio
import json
import shutil
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, MambaConfig

from dedup_server.engines.local.engine import DEMO_MODEL, LocalEngine
from dedup_server.engines.local.loading import hub_answers
from dedup_server.errors import ApiError, StartupError
from dedup_server.requests.base import GenerationRequest
from tests.demo_server import serving
from tests.server.tiny_model import CONTEXT, make_it_say, said_by, save_tiny_model, tiny_config
from tests.server.wired import generate_chunks, sampled

pytestmark = pytest.mark.usefixtures("one_thread")

ENGLISH = "She had not slept since the night when her brother disappeared."
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


def ask(
    client: openai.OpenAI, prompt: str, extra: dict[str, Any] | None = None, **parameters: Any
) -> Any:
    messages: Any = [{"role": "user", "content": prompt}]
    return client.chat.completions.create(
        model="demo", messages=messages, extra_body={**OFF, **(extra or {})}, **parameters
    )


@pytest.mark.parametrize("prompt", [ENGLISH, CHINESE])
def test_greedy_is_what_generate_gives(client: openai.OpenAI, prompt: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    prompt = f"{tokenizer.bos_token}{prompt}\n"  # as the chat template has it
    inputs = tokenizer(prompt, return_tensors="pt")
    expected = model.generate(**inputs, max_new_tokens=60, do_sample=False)[
        0, inputs["input_ids"].shape[1] :
    ]
    done = client.completions.create(
        model="demo", prompt=prompt, max_tokens=60, temperature=0, extra_body=OFF
    )
    text = tokenizer.decode(expected, skip_special_tokens=True)
    assert done.choices[0].text.rstrip("\ufffd") == text.rstrip("\ufffd")
    assert done.choices[0].finish_reason == "length"
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (
        inputs["input_ids"].shape[1],
        60,
    )


@pytest.mark.parametrize("prompt", [ENGLISH, CHINESE])
def test_streamed_and_not_are_the_same_text(client: openai.OpenAI, prompt: str) -> None:
    for policy in ("off", "balanced"):
        extra = {"repetition": {"policy": policy}}
        whole = ask(client, prompt, extra, max_tokens=120, temperature=0).choices[0]
        parts, reason, usage = [], None, None
        options: Any = {"include_usage": True}
        for chunk in ask(
            client,
            prompt,
            extra,
            max_tokens=120,
            temperature=0,
            stream=True,
            stream_options=options,
        ):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                parts.append(choice.delta.content or "")
                reason = choice.finish_reason or reason
        assert "".join(parts) == whole.message.content
        assert reason == whole.finish_reason
        assert usage is not None


def test_a_looping_answer_is_cut_and_says_so(client: openai.OpenAI) -> None:
    extra = {"repetition": {"policy": "balanced", "heal": False}}
    choices = [
        ask(client, prompt, extra, max_tokens=256, temperature=0).choices[0]
        for prompt in (ENGLISH, CHINESE, "春天到了。")
    ]
    cut = [
        choice
        for choice in choices
        if choice.model_extra.get("stop_reason") == "repetition_detected"
    ]
    assert cut
    for choice in cut:
        assert choice.finish_reason == "stop"
        assert choice.model_extra["repetition"]["removed_chars"] > 0


@pytest.mark.parametrize("policy", ["off", "balanced"])
def test_usage_comes_where_it_is_asked_for_and_is_true_after_a_cut(
    client: openai.OpenAI, policy: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    asked = {
        "prompt": f"<|bos|>{ENGLISH}\n",
        "max_tokens": 256,
        "temperature": 0,
        "model": "demo",
        "stream": True,
    }
    extra = {"repetition": {"policy": policy, "heal": False}}
    plain = list(client.completions.create(**asked, extra_body=extra))
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in plain)
    last = list(
        client.completions.create(**asked, extra_body=extra, stream_options={"include_usage": True})
    )[-1]
    assert last.choices == []
    assert "estimated" not in (last.usage.model_extra or {})
    assert last.usage.prompt_tokens == len(tokenizer(asked["prompt"])["input_ids"])
    shown = len(tokenizer("".join(chunk.choices[0].text for chunk in plain))["input_ids"])
    assert shown <= last.usage.completion_tokens <= 256
    assert (last.usage.completion_tokens == 256) == (policy == "off")


def test_a_prompt_that_is_surely_too_long_is_not_tokenized(client: openai.OpenAI) -> None:
    with pytest.raises(
        openai.BadRequestError, match=r"at least \d+ tokens long; demo takes at most 1024"
    ):
        ask(client, "word " * 1_000_000)


@pytest.mark.parametrize(
    ("parameter", "value", "word"),
    [
        ("prompt", "x", "prompt"),
        ("stream_options", {"include_usage": True, "zzz": 1}, "stream_options.zzz"),
        ("max_completion_tokens", 7, "max_completion_tokens"),
        ("logprobs", 3, "logprobs"),
        ("top_logprobs", 3, "top_logprobs"),
        ("echo", True, "echo"),
        ("suffix", "x", "suffix"),
        ("model", "", "''"),
    ],
)
def test_nothing_is_ignored_in_silence(
    client: openai.OpenAI, parameter: str, value: object, word: str
) -> None:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 4,
        parameter: value,
    }
    with pytest.raises(openai.APIStatusError, match=word) as raised:
        client.post("/chat/completions", body=body, cast_to=object)
    assert raised.value.status_code == (404 if parameter == "model" else 400)


def test_what_asks_for_nothing_is_taken(client: openai.OpenAI) -> None:
    nothing = {
        "logprobs": False,
        "response_format": {"type": "text"},
        "tools": [],
        "store": False,
        "logit_bias": {},
    }
    assert ask(
        client, ENGLISH, {**nothing, "metadata": {"run": "7"}, "user": "a"}, max_tokens=2
    ).choices


def test_the_model_is_listed_and_found(client: openai.OpenAI) -> None:
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_seed_gives_the_same_text_whatever_else_runs(client: openai.OpenAI) -> None:
    alone = ask(client, ENGLISH, max_tokens=40, seed=7).choices[0].message.content
    with ThreadPoolExecutor(6) as pool:
        jobs = [
            pool.submit(ask, client, ENGLISH, max_tokens=40, seed=seed)
            for seed in (7, 8, 7, 9, 7, 10)
        ]
    texts = [job.result().choices[0].message.content for job in jobs]
    assert texts[0] == texts[2] == texts[4] == alone
    assert len(set(texts)) > 1


def test_n_choices_differ_and_several_prompts_are_answered_in_order(client: openai.OpenAI) -> None:
    done = ask(client, ENGLISH, max_tokens=20, n=3, seed=1)
    assert [choice.index for choice in done.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in done.choices}) > 1
    prompts = [f"<|bos|>{prompt}\n" for prompt in (ENGLISH, CHINESE)]
    several = client.completions.create(
        model="demo", prompt=prompts, max_tokens=8, temperature=0, extra_body=OFF
    )
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.choices[0].text.isascii()
    assert not several.choices[1].text.isascii()


def test_a_stop_string_ends_the_text_before_it_even_across_tokens(client: openai.OpenAI) -> None:
    text = ask(client, ENGLISH, max_tokens=60, temperature=0).choices[0].message.content
    stop = text[31:43]
    stopped = ask(client, ENGLISH, max_tokens=60, temperature=0, stop=[stop, "never said"]).choices[
        0
    ]
    assert stopped.message.content == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_every_parameter_against_repetition_does_something(client: openai.OpenAI) -> None:
    plain = ask(client, ENGLISH, max_tokens=120, temperature=0, seed=1).choices[0].message.content
    for name, value in [
        ("repetition_penalty", 1.5),
        ("no_repeat_ngram_size", 2),
        ("dry_multiplier", 2.0),
        ("presence_penalty", 2.0),
        ("frequency_penalty", 2.0),
        ("lz_penalty", 0.5),
        ("repetition_temperature", 2.0),
    ]:
        changed = (
            ask(client, ENGLISH, {name: value}, max_tokens=120, temperature=0, seed=1)
            .choices[0]
            .message.content
        )
        assert changed != plain, name


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"extra": {"encoder_no_repeat_ngram_size": 2}}, "encoder_no_repeat_ngram_size"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra": {"mirostat": 2}}, "mirostat"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"extra": {"dry_base": "high"}}, "dry_base"),
    ],
)
def test_what_it_cannot_do_is_named(
    client: openai.OpenAI, parameters: dict[str, Any], named: str
) -> None:
    extra = parameters.pop("extra", None)
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, ENGLISH, extra, **parameters)
    assert refused.value.param == named
    assert named in refused.value.message


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError, match="1024") as refused:
        ask(client, "morning " * 2000)
    assert refused.value.code == "context_length_exceeded"


def test_an_unknown_model_is_a_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="demo"):
        client.chat.completions.create(
            model="gpt-x", messages=[{"role": "user", "content": "Hello"}]
        )


def test_a_client_that_leaves_frees_its_place(client: openai.OpenAI, url: str) -> None:
    """More clients than there are places leave in mid-stream; the next is answered, and nothing runs on."""
    for _ in range(6):
        with ask(
            client, ENGLISH, {"no_repeat_ngram_size": 3}, max_tokens=900, stream=True
        ) as stream:
            next(iter(stream))
    assert ask(client, ENGLISH, max_tokens=5).choices[0].message.content
    for _ in range(50):
        with urllib.request.urlopen(f"{url}/metrics") as response:
            if b'dedup_streams_in_progress{model="demo"} 0.0' in response.read():
                return
        time.sleep(0.1)
    pytest.fail("a generation goes on without a reader")


async def test_a_model_without_a_chat_template_says_how_to_give_one() -> None:
    engine = LocalEngine(str(DEMO_MODEL))
    await engine.start()
    engine.loaded.tokenizer.chat_template = None
    with pytest.raises(ApiError, match="chat template"):
        engine.validate(sampled("chat", {"messages": [{"role": "user", "content": "Hello"}]}))
    engine.validate(sampled("completions", {"prompt": "Hello"}))
    await asyncio.wait_for(engine.stop(), 10)


# The engine by itself, with tiny models.

MULTIBYTE = "你好，世界！🙂 naïve 👩‍👩‍👧 終"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
async def engine(tiny: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(str(tiny))
    await engine.start()
    yield engine
    await engine.stop()


Chunk = dict[str, Any]


async def complete(
    engine: LocalEngine, prompt: Any = "the cat sat", **parameters: Any
) -> list[Chunk]:
    request = sampled("completions", {"prompt": prompt, **parameters})
    engine.validate(request)
    chunks: list[Chunk] = []
    await generate(engine, request, chunks)
    return chunks


async def generate(engine: LocalEngine, request: GenerationRequest, into: list[Chunk]) -> None:
    await generate_chunks(engine, request, lambda events: into.extend(events))


async def begun(engine: LocalEngine, chunks: list[Chunk]) -> "asyncio.Task[None]":
    """A request whose first chunk has come."""
    first = asyncio.Event()

    def take(events: list[dict[str, Any]]) -> None:
        chunks.extend(events)
        first.set()

    running = asyncio.create_task(
        generate_chunks(engine, sampled("completions", {"prompt": "the"}), take)
    )
    await first.wait()
    return running


def texts_of(chunks: list[Chunk]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


def finish_of(chunks: list[Chunk]) -> list[str]:
    return [
        choice["finish_reason"]
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["finish_reason"]
    ]


@pytest.mark.parametrize("kind", ["llama", "mamba"])
async def test_greedy_is_generate_token_for_token(kind: str, tiny: Path, tmp_path: Path) -> None:
    if kind == "mamba":  # keeps its state under another name than attention does
        tiny = save_tiny_model(tmp_path, tiny_config(MambaConfig, state_size=4))
    tokenizer, model = (
        AutoTokenizer.from_pretrained(tiny),
        AutoModelForCausalLM.from_pretrained(tiny),
    )
    prompt = tokenizer("the dog sat", return_tensors="pt")["input_ids"]
    expected = model.generate(prompt, max_new_tokens=30, do_sample=False)[
        0, prompt.shape[1] :
    ].tolist()
    engine = LocalEngine(str(tiny))
    await engine.start()
    made = said_by(engine)
    chunks = await complete(engine, "the dog sat", max_tokens=30, temperature=0)
    await engine.stop()
    assert made == expected
    assert chunks[-1]["usage"]["completion_tokens"] == len(expected)


async def test_a_seed_stands_while_other_requests_sample_in_other_threads(
    engine: LocalEngine,
) -> None:
    alone = texts_of(await complete(engine, seed=3, max_tokens=30))
    answers = await asyncio.gather(
        *(complete(engine, seed=seed, max_tokens=30) for seed in (3, 4, 3, 5))
    )
    texts = [texts_of(answer) for answer in answers]
    assert texts[0] == texts[2] == alone
    assert texts[1] != alone


async def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(
    engine: LocalEngine,
) -> None:
    chunks = await complete(engine, ["the cat", "the dog sat"], n=2, max_tokens=6, seed=1)
    assert sorted(texts_of(chunks)) == [0, 1, 2, 3]
    assert len(finish_of(chunks)) == 4
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] <= 24


async def test_chat_opens_each_choice_with_its_role(engine: LocalEngine) -> None:
    engine.loaded.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    request = sampled(
        "chat",
        {"messages": [{"role": "user", "content": "the cat"}], "n": 2, "max_tokens": 3},
    )
    engine.validate(request)
    chunks: list[Chunk] = []
    await generate(engine, request, chunks)
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:2]] == [
        {"role": "assistant", "content": ""}
    ] * 2
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("at sat o", "the c"),  # over token borders
        (["never", "on"], "the cat sat "),
        ("cat sun", "the cat sat on the mat"),  # begins, but does not come
        ("mat.", "the cat sat on the mat"),  # held when the text ends
    ],
)
async def test_from_a_stop_string_on_nothing_appears(
    engine: LocalEngine, stop: str | list[str], expected: str
) -> None:
    text = "the cat sat on the mat"
    make_it_say(engine, engine.loaded.tokenizer(text)["input_ids"])
    chunks = await complete(engine, stop=stop, max_tokens=40)
    assert texts_of(chunks)[0] == expected
    assert finish_of(chunks) == ["stop"]


async def test_a_character_is_never_split(engine: LocalEngine) -> None:
    tokens = engine.loaded.tokenizer(MULTIBYTE)["input_ids"]
    assert len(tokens) > len(MULTIBYTE)  # a token a byte
    make_it_say(engine, tokens)
    chunks = await complete(engine)
    pieces = [choice["text"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(pieces) == MULTIBYTE
    assert len(pieces) > len(MULTIBYTE) / 2
    assert not any("\ufffd" in piece for piece in pieces)


async def test_an_answer_ends_at_max_tokens_or_at_the_context(engine: LocalEngine) -> None:
    make_it_say(engine, engine.loaded.tokenizer(" cat" * 100)["input_ids"])
    for asked, expected in (
        ({"max_tokens": 7}, 7),
        ({}, CONTEXT - 2),
        ({"max_tokens": 1000}, CONTEXT - 2),
    ):
        chunks = await complete(engine, [5, 6], **asked)
        assert finish_of(chunks) == ["length"]
        assert chunks[-1]["usage"] == {
            "prompt_tokens": 2,
            "completion_tokens": expected,
            "total_tokens": expected + 2,
        }


async def test_a_prompt_that_fills_the_context_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(ApiError, match=rf"\b{CONTEXT + 1} tokens.*\b{CONTEXT}\b") as refused:
        await complete(engine, [5] * (CONTEXT + 1))
    assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")
    assert finish_of(await complete(engine, [5] * (CONTEXT - 1), temperature=0)) == ["length"]


async def test_a_reader_that_leaves_frees_the_worker_and_one_that_waits_never_starts(
    tiny: Path,
) -> None:
    engine = LocalEngine(str(tiny), max_concurrent=1)
    await engine.start()
    make_it_say(engine, engine.loaded.tokenizer(" cat" * 50)["input_ids"], seconds_per_token=0.1)
    running = await begun(engine, [])
    waiting = asyncio.ensure_future(complete(engine))
    await asyncio.sleep(0.05)
    waiting.cancel()
    running.cancel()
    began = time.monotonic()
    assert finish_of(await complete(engine, max_tokens=1)) == ["length"]
    assert time.monotonic() - began < 1
    assert running.cancelled()
    await engine.stop()


async def test_a_server_that_stops_ends_an_answer_with_an_error_and_never_as_if_complete(
    tiny: Path,
) -> None:
    engine = LocalEngine(str(tiny))
    await engine.start()
    make_it_say(engine, engine.loaded.tokenizer(" cat" * 50)["input_ids"], seconds_per_token=0.02)
    chunks: list[Chunk] = []
    running = await begun(engine, chunks)
    await asyncio.wait_for(engine.stop(), 1)
    with pytest.raises(ApiError, match="shutting down"):
        await running
    assert not finish_of(chunks)
    with pytest.raises(ApiError, match="shutting down"):
        await complete(engine)


async def test_a_temperature_next_to_nothing_is_greedy(engine: LocalEngine) -> None:
    greedy = texts_of(await complete(engine, temperature=0, max_tokens=20))
    assert texts_of(await complete(engine, temperature=1e-40, max_tokens=20)) == greedy
    assert texts_of(await complete(engine, top_k=1, max_tokens=20)) == greedy
    assert texts_of(await complete(engine, top_p=1e-9, max_tokens=20)) == greedy
    assert texts_of(await complete(engine, min_p=1.0, max_tokens=20)) == greedy


async def test_a_part_that_is_no_text_is_refused(engine: LocalEngine) -> None:
    engine.loaded.tokenizer.chat_template = "{{ messages[0].content }}"
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    request = sampled(
        "chat",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}
            ]
        },
    )
    with pytest.raises(ApiError, match="text only") as refused:
        engine.validate(request)
    assert refused.value.code == "unsupported_parameter"


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _with_half_the_file(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])


def _without_a_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor.clone() for name, tensor in weights.items() if "layers.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def _without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _with_code_of_its_own(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "strange.Config"}}
    (folder / "config.json").write_text(json.dumps(config))


def _encoder(folder: Path) -> None:
    tiny_config(BertConfig, architectures=["BertForMaskedLM"]).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "no such folder"),
        (_without_config, r"no config\.json"),
        (_without_weights, "no weights"),
        (_with_half_the_file, "cannot be loaded"),
        (_without_a_layer, r"incomplete.*layers\.1"),
        (_without_tokenizer, "no tokenizer"),
        (_with_code_of_its_own, "--trust-remote-code"),
        (_encoder, r"encoder-only model \(BertForMaskedLM\) and cannot generate text"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_in_one_line(
    tiny: Path, tmp_path: Path, spoil: Any, said: str
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(StartupError, match=said) as refused:
        LocalEngine(str(folder)).load()
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_hub_out_of_reach_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    assert not hub_answers("owner/name")
    begun = time.monotonic()
    with pytest.raises(StartupError, match="no-such-owner/no-such-model"):
        LocalEngine("no-such-owner/no-such-model").load()
    assert time.monotonic() - begun < 2


def test_an_index_that_lists_nothing_and_a_device_that_is_not_there_are_one_line(
    tiny: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    (broken / "model.safetensors").rename(broken / "model-1.safetensors")
    (broken / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(StartupError, match=r"broken: cannot be loaded: KeyError"):
        LocalEngine(str(broken)).load()
    with pytest.raises(StartupError, match=r"device 'cuda:99': the model cannot be put there"):
        LocalEngine(str(tiny), device="cuda:99").load()
