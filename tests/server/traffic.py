"""Traffic of all kinds against a running server, with a record of what its engine sent and what its clients received."""

import asyncio
import contextlib
import http.client
import itertools
import json
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from aiohttp import web

from dedup.answer.continuation import OPENING_TOKENS
from tests.server.mock_upstream import Upstream, event

PIECE_CHARS = 11
USAGE = {"prompt_tokens": 17, "completion_tokens": 29, "total_tokens": 46}

ENGLISH = (
    "The river rose in the night, and by morning the bridge was gone. "
    "Nobody in the village had heard it fall. "
    "The miller walked along the bank with a lantern and counted what was left of the piers. "
    "Two carts stood loaded on the far side, and their drivers were asleep. "
    "It would take the carpenters until harvest to build another one."
)
CHINESE = (
    "夜里河水涨了起来，到了早晨，桥已经不见了。村里没有一个人听见它倒下的声音。磨坊主人提着灯笼沿着河岸走，数着还剩下几个桥墩。"
    "对岸停着两辆装满货物的大车，车夫都睡着了。"
)
SAID_AGAIN = (
    "The miller walked along the bank with a lantern and counted what was left of the piers. "
)
SAID_AGAIN_ZH = "磨坊主人提着灯笼沿着河岸走，数着还剩下几个桥墩。"
ROUND = "I am going round and round in circles here. "
ROUND_ZH = "我在原地一圈又一圈地打转。"
DRIFT = "".join(
    f"Step {number}: open the drawer, look inside and close the drawer again. "
    for number in range(1, 80)
)
DAYS = ("first", "second", "third", "fourth")
ARGUMENTS = '{"city": "Chengdu", "unit": "celsius", "days": 3}'
LOOPING_ARGUMENTS = '{"names": [' + '"the same old name", ' * 60
WEATHER = "There is no station of this name in the register."
STEPS = 6  # of an agent in a loop

Slot = Literal["content", "reasoning_content", "arguments"]
CHANNELS = {
    "content": "content",
    "text": "content",
    "reasoning_content": "reasoning",
    "arguments": "tool_arguments",
}
Text = tuple[int, str]  # a choice, and the channel of one of its texts


@dataclass(frozen=True)
class Script:
    """What the engine says when it is asked for a model.

    choices: of each the texts, one after another. ends: how; a number is the status of a refusal. goes_on: what it says when it is asked
    to go on, the first time and so forth; without it, it is not known to be able to. One whose opening was stopped goes on with the rest
    of it. finish: the finish reason.
    """

    choices: tuple[tuple[tuple[Slot, str], ...], ...] = ((("content", ENGLISH),),)
    ends: Literal["stop", "error", "break", "stall", "silence"] | int = "stop"
    goes_on: "tuple[Script, ...]" = ()
    finish: str = "stop"


def says(text: str, **more: Any) -> Script:
    return Script(((("content", text),),), **more)


SCRIPTS = {
    "plain": Script(),
    "plain-zh": says(CHINESE),
    "repeats": says(ENGLISH + " " + SAID_AGAIN + "Then the rain came back."),
    "repeats-zh": says(CHINESE + SAID_AGAIN_ZH + "后来又下起了雨。"),
    "loops": says(ENGLISH + " " + ROUND * 60),
    "loops-zh": says(CHINESE + ROUND_ZH * 60),
    "drifts": says(ENGLISH + " " + DRIFT),
    "repeats-and-loops": says(ENGLISH + " " + SAID_AGAIN + "Then the rain came back. " + ROUND * 60),
    "two": Script(((("content", ENGLISH),), (("content", "It is late. " + ROUND * 60),))),
    "thinks": Script(((("reasoning_content", ENGLISH), ("content", "The bridge is gone.")),)),
    "thinks-in-circles": Script(((("reasoning_content", "Let me see. " + ROUND * 60), ("content", "The bridge is gone.")),)),
    "calls": Script(((("arguments", ARGUMENTS),),)),
    "calls-in-circles": Script(((("arguments", LOOPING_ARGUMENTS),),)),
    "calls-again": Script(((("arguments", ARGUMENTS),),), goes_on=(says("Chengdu has no station, so I cannot tell."),)),
    "calls-for-ever": Script(((("arguments", ARGUMENTS),),), goes_on=(Script(((("arguments", ARGUMENTS),),)),) * 2),
    "calls-another": Script(((("arguments", '{"city": "Xi\'an", "unit": "celsius", "days": 3}'),),)),
    "heals": says(ENGLISH + " " + ROUND * 60, goes_on=(says("Then the rain came back, and they went home."),)),
    "heals-zh": says(CHINESE + ROUND_ZH * 60, goes_on=(says("后来又下起了雨，大家都回家去了。"),)),
    "heals-twice": says(
        ENGLISH + " " + ROUND * 60,
        goes_on=(says("Then the rain came back. " + "No, wait, that is not at all what happened. " * 60), says("They all went home.")),
    ),
    "heals-never": says(
        ENGLISH + " " + ROUND * 60,
        goes_on=tuple(says(f"It was the {day} day. " + f"They spoke of the {day} one and of it only! " * 60) for day in DAYS),
    ),
    "will-not-go-on": says(ENGLISH + " " + ROUND * 60, goes_on=(Script(ends=400),)),
    "fails": says(ENGLISH[:120], ends="error"),
    "breaks": says(ENGLISH[:120], ends="break"),
    "stalls": says(ENGLISH[:120], ends="stall"),
    "silent": Script(ends="silence"),
    "refuses": Script(ends=429),
    "down": Script(ends=503),
    "empty": Script(((),)),
}  # fmt: skip


@dataclass
class Sent:
    """What the engine wrote in answer to one request of the server's."""

    body: dict[str, Any]
    status: int = 200
    pieces: dict[Text, list[str]] = field(default_factory=dict)
    usage: dict[str, int] | None = None
    script: Script = field(default_factory=Script)
    number: int = 0  # of the script: 0 is what it says first

    @property
    def is_opening(self) -> bool:
        """Return whether it begins a continuation that another request goes on with."""
        limits = [self.body.get(name) for name in ("max_tokens", "max_completion_tokens")]
        return any(limit is not None and limit <= OPENING_TOKENS for limit in limits)

    @property
    def prefix(self) -> str:
        """Return what the engine is asked to go on with."""
        if "messages" not in self.body:
            return str(self.body["prompt"])
        last = self.body["messages"][-1]
        return str(last["content"]) if last["role"] == "assistant" else ""


class ScriptedUpstream(Upstream):
    """Says what `SCRIPTS` has for the model asked for, and keeps what it sent, by the request's id."""

    def __init__(self, more_models: int = 0, scripts: Mapping[str, Script] = SCRIPTS) -> None:
        super().__init__()
        self.scripts = scripts
        self.sent: dict[str, list[Sent]] = {}
        self.more_models = [
            f"model-{number}" for number in range(more_models)
        ]  # which go on, if the script has it

    async def models(self, request: web.Request) -> web.Response:
        listed = [
            {"id": name, "owned_by": "vllm" if script.goes_on else "the tests"}
            for name, script in self.scripts.items()
        ]
        return web.json_response(
            {
                "object": "list",
                "data": [*listed, *({"id": name, "owned_by": "vllm"} for name in self.more_models)],
            }
        )

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        script = self.scripts.get(body.get("script", body["model"]), SCRIPTS["plain"])
        goes_on = script.goes_on
        attempts = self.sent.setdefault(request.headers["X-Request-Id"], [])
        sent = Sent(body, script=script)
        last = attempts[-1] if attempts else None
        if last is not None and last.is_opening and not sent.is_opening:
            said = sent.prefix.removeprefix(last.prefix).strip()
            script, sent.number = _rest(last.script, said), last.number
        elif last is not None:
            sent.number = last.number + 1
            more = [*goes_on, Script(ends=400)]
            script = more[min(sent.number, len(more)) - 1]
        sent.script = script
        attempts.append(sent)
        if script.ends == "silence":
            await asyncio.sleep(60)
        if isinstance(script.ends, int):
            sent.status = script.ends
            return web.json_response(
                {"error": {"message": "not now", "type": "refused"}}, status=script.ends
            )
        chat = request.path.endswith("chat/completions")
        if not body.get("stream"):
            return self._whole(script, sent, chat)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        with contextlib.suppress(ConnectionError):  # the server may hang up
            await response.prepare(request)
            # Hung up on, it never comes to tell its usage.
            hangs = sent.number < len(goes_on) and "tools" not in body
            await self._stream(request, response, script, sent, chat, hangs)
        return response

    def _whole(self, script: Script, sent: Sent, chat: bool) -> web.Response:
        choices = []
        for index, texts in enumerate(script.choices):
            message: dict[str, Any] = {}
            for slot, text in texts:
                sent.pieces[index, CHANNELS[slot]] = [text]
                message |= _delta(slot, text)
            said = (
                {"message": {"role": "assistant", "content": None, **message}}
                if chat
                else {"text": message["content"]}
            )
            choices.append({"index": index, **said, "finish_reason": script.finish})
        sent.usage = USAGE
        whole = {"id": "u", "object": "chat.completion", "created": 1, "model": sent.body["model"]}
        return web.json_response({**whole, "choices": choices, "usage": USAGE})

    async def _stream(
        self,
        request: web.Request,
        response: web.StreamResponse,
        script: Script,
        sent: Sent,
        chat: bool,
        hangs: bool,
    ) -> None:
        unwritten: list[bytes] = []
        num_written = (
            itertools.count()
        )  # in each chunk, so that none of a read are joined: how many
        # characters of a loop are read would depend on what comes together

        async def write(**more: Any) -> None:
            chunk = {
                "id": "u",
                "object": "chat.completion.chunk",
                "created": next(num_written),
                "model": sent.body["model"],
            }
            unwritten.append(event({**chunk, **more}))
            if script.ends != "error":  # whose text comes together with it
                await response.write(b"".join(unwritten))
                unwritten.clear()

        finish = script.finish
        left = OPENING_TOKENS if sent.is_opening else None
        for index, texts in enumerate(script.choices):
            for slot, text in texts:
                pieces = sent.pieces[index, CHANNELS[slot]] = []
                for at in range(0, len(text), PIECE_CHARS):
                    if left is not None:
                        left -= 1
                        if left < 0:
                            finish = "length"
                            break
                    pieces.append(text[at : at + PIECE_CHARS])
                    said = (
                        {"delta": _delta(slot, pieces[-1], begins=at == 0)}
                        if chat
                        else {"text": pieces[-1]}
                    )
                    await write(choices=[{"index": index, **said, "finish_reason": None}])
        if hangs:
            await asyncio.sleep(1)
        if script.ends == "error":
            await response.write(
                b"".join([*unwritten, event({"error": {"message": "out of memory", "code": 500}})])
            )
            return
        if script.ends == "break":
            assert request.transport
            request.transport.close()
            return
        if script.ends == "stall":
            await asyncio.sleep(60)
        for index in range(len(script.choices)):
            await write(
                choices=[
                    {
                        "index": index,
                        **({"delta": {}} if chat else {"text": ""}),
                        "finish_reason": finish,
                    }
                ]
            )
        if (sent.body.get("stream_options") or {}).get("include_usage"):
            sent.usage = USAGE
            await write(choices=[], usage=USAGE)
        await response.write(b"data: [DONE]\n\n")


def _rest(script: Script, said: str) -> Script:
    """Return what is left of a script behind `said`, with which its content begins."""
    (texts,) = script.choices
    rest = list(texts)
    while said and rest:
        slot, text = rest.pop(0)
        if slot == "content":
            text = text.lstrip()
            assert text.startswith(said), (text, said)
            rest.insert(0, (slot, text[len(said) :]))
            break
    return replace(script, choices=(tuple(rest),))


def _delta(slot: Slot, text: str, begins: bool = True) -> dict[str, Any]:
    if slot != "arguments":
        return {slot: text}
    call = (
        {"index": 0, "id": "t", "type": "function", "function": {"name": "weather"}}
        if begins
        else {"index": 0}
    )
    return {"tool_calls": [{**call, "function": {**call.get("function", {}), "arguments": text}}]}  # type: ignore[dict-item]


@dataclass(frozen=True)
class Ask:
    """One request. script: what the engine shall say, if that is not what the model's name says. raw: its body, if it is not to be one
    of the API's. leaves: hangs up when the engine has sent all it will. rungs: an agent in a loop asks, which these may lead out."""

    model: str
    endpoint: Literal["chat", "completions"] = "chat"
    stream: bool = True
    usage: bool = False
    policy: str | None = None
    prompt: str = "What happened to the bridge?"
    leaves: bool = False
    raw: bytes | None = None
    script: str | None = None
    rungs: tuple[str, ...] | None = None

    @property
    def played(self) -> Script:
        return SCRIPTS.get(self.script or self.model, SCRIPTS["plain"])

    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        body: dict[str, Any] = {
            "model": self.model,
            "stream": self.stream,
            "n": len(self.played.choices),
        }
        body |= {"script": self.script} if self.script else {}
        body |= (
            {"messages": [{"role": "user", "content": self.prompt}]}
            if self.endpoint == "chat"
            else {"prompt": self.prompt}
        )
        body |= {"repetition": {"policy": self.policy}} if self.policy else {}
        if self.rungs is not None:
            body["tools"] = [{"type": "function", "function": {"name": "weather"}}]
            body["messages"] += looping_steps()
            body["repetition"] = {"agent_loops": self.rungs}
        return json.dumps(
            {**body, **({"stream_options": {"include_usage": True}} if self.usage else {})}
        ).encode()


def looping_steps() -> list[dict[str, Any]]:
    """The messages of an agent that has made a call `STEPS` times, each time with the same result."""
    messages: list[dict[str, Any]] = []
    for number in range(STEPS):
        function = {"name": "weather", "arguments": ARGUMENTS}
        call = {"id": f"call-{number}", "type": "function", "function": function}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": WEATHER},
        ]
    return messages


def every_outcome(model: str) -> list[Ask]:
    """Requests for a model of `ScriptedUpstream.more_models` that end in every way, and make every kind of text."""
    scripts = (
        "plain",
        "repeats-zh",
        "loops",
        "drifts",
        "heals",
        "thinks",
        "thinks-in-circles",
        "calls",
        "breaks",
        "refuses",
    )
    asks = [Ask(model, script=script) for script in scripts]
    return [
        *asks,
        Ask(model, "completions"),
        Ask(model, policy="watch", script="loops"),
        Ask(model, script="stalls", leaves=True),
    ]


ALL_KINDS: Sequence[Ask] = (
    *(Ask(model, stream=stream, usage=bool(SCRIPTS[model].goes_on)) for stream in (True, False)
      for model in SCRIPTS if isinstance(SCRIPTS[model].ends, str)
      and SCRIPTS[model].ends == "stop"
      and model not in ("empty", "will-not-go-on", "calls-again", "calls-for-ever", "calls-another")),
    *(Ask(model, stream=stream, usage=True, rungs=rungs) for stream in (True, False)
      for model in ("calls-again", "calls-for-ever", "calls-another", "plain")
      for rungs in ((), ("nudge",), ("answer",), ("nudge", "answer"), ("stop",), ("nudge", "stop"))),
    *(Ask(model, usage=True) for model in ("plain", "plain-zh", "loops", "loops-zh", "two", "heals", "heals-never")),
    *(Ask(model, "completions", stream, usage=model == "heals") for stream in (True, False)
      for model in ("plain", "repeats-zh", "loops", "heals")),
    *(Ask(model, policy=policy) for policy in ("off", "watch", "loops", "strict")
      for model in ("plain", "repeats", "repeats-zh", "loops", "loops-zh", "calls-in-circles")),
    Ask("loops", prompt="Say it 70 times."),
    Ask("heals", policy="watch"),
    Ask("plain", stream=False, policy="off"),
    Ask("loops", stream=False, policy="watch"),
    Ask("not-in-the-list"),
    *(Ask(model, stream=stream) for stream in (True, False) for model in ("refuses", "down")),
    Ask("breaks"),
    *(Ask("stalls", leaves=True) for _ in range(2)),
    *(Ask("silent", stream=stream, leaves=True) for stream in (True, False)),
    Ask("plain", raw=b"{oops"),
    Ask("plain", raw=b'{"model": "plain", "messages": 5}'),
    Ask("plain"),
)  # fmt: skip


@dataclass
class Exchange:
    """A request and what its client received."""

    ask: Ask
    id: str
    status: int = 0
    texts: dict[Text, str] = field(default_factory=dict)
    finishes: dict[int, dict[str, Any]] = field(
        default_factory=dict
    )  # the choice that carried the finish reason
    usage: dict[str, Any] | None = None
    done: bool = False
    seconds: float = 0.0


def send(url: str, ask: Ask, engine: ScriptedUpstream, number: int) -> Exchange:
    """Asks, and reads the answer to its end, or to where the client is to leave."""
    exchange = Exchange(ask, f"request-{number}")
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    path = "/v1/chat/completions" if ask.endpoint == "chat" else "/v1/completions"
    began = time.perf_counter()
    engine.asked.clear()
    try:
        connection.request(
            "POST",
            path,
            ask.body(),
            {"Content-Type": "application/json", "X-Request-Id": exchange.id},
        )
        if ask.leaves and ask.played.ends == "silence":
            assert engine.asked.wait(10)
            return exchange
        response = connection.getresponse()
        exchange.status = response.status
        if not ask.stream or response.status != 200:
            body = json.loads(response.read())
            _note(exchange, body)
            exchange.done = response.status == 200
        else:
            enough = (
                sum(len(text) for texts in ask.played.choices for _, text in texts)
                if ask.leaves
                else None
            )
            _read_events(response, exchange, enough)
    finally:
        connection.close()
        exchange.seconds = time.perf_counter() - began
    return exchange


def _read_events(
    response: http.client.HTTPResponse, exchange: Exchange, enough: int | None
) -> None:
    for line in response:
        if line == b"data: [DONE]\n":
            exchange.done = True
        elif line.startswith(b"data: "):
            _note(exchange, json.loads(line[6:]))
        if enough is not None and sum(map(len, exchange.texts.values())) >= enough:
            return


def _note(exchange: Exchange, body: dict[str, Any]) -> None:
    for choice in body.get("choices", ()):
        index = choice["index"]
        holder = choice.get("delta") or choice.get("message") or choice
        for slot in ("content", "text", "reasoning_content"):
            if holder.get(slot):
                _add(exchange, (index, CHANNELS[slot]), holder[slot])
        for call in holder.get("tool_calls") or ():
            _add(exchange, (index, "tool_arguments"), call["function"]["arguments"])
        if choice["finish_reason"]:
            exchange.finishes[index] = choice
    exchange.usage = body.get("usage") or exchange.usage


def _add(exchange: Exchange, text: Text, more: str) -> None:
    exchange.texts[text] = exchange.texts.get(text, "") + more


def scrape(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as response:
        return str(response.read().decode())


def settled(url: str, num_requests: int) -> str:
    """A scrape when so many requests have been counted and none is in progress: clients that left are noticed soon, but later."""
    for _ in range(500):
        text = scrape(url)
        samples = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        counted = sum(
            float(value) for name, value in samples if name.startswith("dedup_requests_total{")
        )
        running = sum(
            float(value) for name, value in samples if name.startswith("dedup_streams_in_progress{")
        )
        if counted >= num_requests and not running:
            return text
        time.sleep(0.02)
    raise AssertionError(
        f"{counted:g} of {num_requests} requests are counted, {running:g} are in progress"
    )
