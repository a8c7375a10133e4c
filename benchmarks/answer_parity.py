"""Do readers get the same bytes from two builds of the server? Thousands of recorded answers are played through each of them.

    export OLD=/path/to/old NEW=/path/to/new
    python benchmarks/answer_parity.py record --tree $OLD --into old.jsonl
    python benchmarks/answer_parity.py record --tree $NEW --into new.jsonl
    python benchmarks/answer_parity.py compare old.jsonl new.jsonl
    python benchmarks/answer_parity.py show 1234             # a request, and what the upstream answers to it
    python benchmarks/answer_parity.py kinds                 # the kinds of answers, and how many there are of each

`record` starts `dedup serve` from a tree in front of an upstream that replays the answers byte by byte, asks for all of them, and writes
a JSON line for each: status, headers, body without its chunked framing, and the requests that the upstream got. Answers are made from
--seed and --data alone; real texts come from the data's loops/, drift/, midrepeat/, legit/ and corpus/, or without data from
tests/server/traffic.py. Three servers run side by side: one that forwards requests as they
came (`stream_upstream = false`), one that streams whole answers, one with keys and aliases.
Left out of a record: x-request-id, date, and headers of the connection; the upstream's port stands as "mock".
"""

import argparse
import asyncio
import base64
import gzip
import hashlib
import itertools
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.request import urlopen

from tqdm import tqdm

Json = dict[str, Any]
Process = subprocess.Popen[bytes]
Api = Literal["chat", "completions", "responses", "messages"]

ROOT = Path(__file__).resolve().parent.parent
PATHS: dict[Api, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
APIS: tuple[Api, ...] = tuple(PATHS)
CHOICES_APIS: tuple[Api, ...] = ("chat", "completions")
TOOL_APIS: tuple[Api, ...] = ("chat", "responses", "messages")
POLICIES = ("off", "watch", "loops", "balanced", "strict")
VENDORS: dict[Api, tuple[str, ...]] = {
    "chat": ("vllm", "llama.cpp", "ollama", "openai", "sglang", "deepseek", "openrouter"),
    "completions": ("vllm", "llama.cpp", "ollama", "openai"),
    "responses": ("openai", "vllm", "llama.cpp"),
    "messages": ("anthropic", "vllm", "llama.cpp"),
}
# What the upstream lists, and so how it can be asked to go on with an answer.
OWNERS = {
    "qwen": "vllm",
    "mistral": "sglang",
    "llama": "llamacpp",
    "gpt": "openai",
    "phi": "library",
}
GOING_ON = ("qwen", "mistral", "llama")
NOT_GOING_ON = ("gpt", "phi")

PAUSE_SECONDS = 0.003  # between two writes of an answer
STEADY_PAUSE_SECONDS = 0.1  # where what comes in one read decides between a status and an event
HANG_UP_SECONDS = 0.8  # in which a server notices a loop and hangs up
TIMEOUT_SECONDS = 60.0
CLIENT_KEY = "reader-key-0001"
UPSTREAM_KEY = "upstream-key-0001"
SERVERS = {
    "default": "stream_upstream = false\n",
    "streams": "stream_upstream = true\n",
    "keyed": f'api_keys = ["{CLIENT_KEY}"]\nmax_body_bytes = 65536\nheal = false\n'
    "stream_upstream = false\n"
    'aliases = { alias = "served-1" }\n',
}
# Headers of answers and upstream requests that differ between any two runs, or belong to one connection.
VOLATILE_HEADERS = frozenset(
    ["date", "x-request-id", "connection", "keep-alive", "transfer-encoding", "content-length"]
)

JAPANESE = (
    "夜のうちに川の水かさが増し、朝には橋がなくなっていた。村の誰もその落ちる音を聞かなかった。"
    "粉屋は提灯を手に川岸を歩き、残った橋脚を数えた。向こう岸には荷を積んだ馬車が二台止まっていた。"
    "大工たちが新しい橋を架けるには収穫の頃までかかるだろう。子どもたちは石を投げて遊んでいた。"
)


# Texts


class Texts:
    """Texts by kind and language, and digest, which tells two sets apart."""

    def __init__(self, folder: Path | None) -> None:
        self.clean: dict[str, list[str]] = {"en": [], "zh": [], "ja": [JAPANESE]}
        self.loops: dict[str, list[str]] = {"en": [], "zh": [], "ja": [], "other": []}
        self.thoughts: list[str] = []
        self.drift: list[str] = []
        self.floods: list[str] = []
        self.repeats: list[str] = []
        self.forms: list[str] = []
        if folder is None:
            self._take_own()
        else:
            self._take(folder)
        everything = json.dumps(vars(self), sort_keys=True).encode()
        self.digest = hashlib.sha256(everything).hexdigest()[:16]

    def _take(self, folder: Path) -> None:
        def rows(name: str) -> list[Json]:
            lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
            return [row for row in map(json.loads, lines) if row.get("text")]

        def texts(*names: str) -> list[str]:
            return [str(row["text"]) for name in names for row in rows(name)]

        self.clean["en"] = texts("legit/alpaca_eval_random")
        self.clean["zh"] = texts("legit/zbench_zh")
        for name, lang in (("sherlock_en", "en"), ("hongloumeng_zh", "zh"), ("xiyouji_zh", "zh")):
            book = (folder / "corpus" / f"{name}.txt").read_text(encoding="utf-8")
            self.clean[lang] += [book[at : at + 1500] for at in range(9000, len(book), 20_000)]
        for name in ("alpaca_eval_loops", "bayling_zh", "bayling_other", "zbench_loops"):
            for row in rows(f"loops/{name}"):
                self.loops[row.get("lang", "en")].append(row["text"][: row["onset"] + 2500])
        self.thoughts = texts("loops/gptoss20b_reasoning_safe")
        self.drift = texts("drift/drift_loop", "drift/mid_loop")
        self.floods = texts("drift/flood")
        self.repeats = texts("midrepeat/midrepeat", "legit/alpaca_eval_repetitive", "legit/hymns")
        self.forms = texts("legit/legit_hard", "legit/looks_like_a_loop", "legit/poems_zh")

    def _take_own(self) -> None:
        sys.path[:0] = [str(ROOT), str(ROOT / "server")]
        from tests.server import traffic as own

        self.clean["en"], self.clean["zh"] = [own.ENGLISH], [own.CHINESE]
        self.loops["en"] = [f"{own.ENGLISH} {own.ROUND * 60}"]
        self.loops["zh"] = [own.CHINESE + own.ROUND_ZH * 60]
        self.loops["ja"] = self.loops["other"] = [JAPANESE + JAPANESE[:30] * 60]
        self.thoughts = [f"Let me see. {own.ROUND * 60}"]
        self.drift = [f"{own.ENGLISH} {own.DRIFT}"]
        self.floods = ["a " * 800]
        self.repeats = [f"{own.ENGLISH} {own.SAID_AGAIN}Then the rain came back."]
        self.forms = ["| a | b |\n| - | - |\n| 1 | 2 |\n"]


def sentences_of(text: str) -> list[str]:
    return [s for s in re.findall(r"[^.!?。！？\n]+[.!?。！？\n]+\s*", text) if len(s.strip()) > 8]


# What an answer says, whatever the API


@dataclass
class Part:
    """A text of an answer. call: the tool's name and the call's id, of tool arguments."""

    channel: Literal["reasoning", "content", "refusal", "tool"]
    text: str
    call: tuple[str, str] = ("", "")


@dataclass
class Choice:
    parts: list[Part]
    finish: Literal["stop", "length", "tool_calls"] = "stop"


@dataclass
class Play:
    """An HTTP response as it is written. writes: the bytes of each write, and the pause before it."""

    writes: list[tuple[float, bytes]]
    ending: Literal["keep", "close", "reset"] = "keep"


@dataclass
class Case:
    """A request, and what the upstream answers to the first request that comes of it, to the second and so on."""

    number: int
    kind: str
    api: Api
    server: str
    stream: bool
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    plays: list[Play]
    refusal: Play  # of all requests behind those


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def compact_ascii(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def spaced(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class Draft:
    """One answer in the making: what was drawn for it, and the tools to write it down."""

    def __init__(self, kind: str, key: object, texts: Texts, api: Api, stream: bool) -> None:
        rng = self.rng = random.Random(f"{key}")
        self.kind, self.texts, self.api, self.stream = kind, texts, api, stream
        self.server = "default"
        self.steady = False  # see STEADY_PAUSE_SECONDS
        self.lang = rng.choice(("en", "en", "en", "zh", "zh", "ja"))
        self.vendor = rng.choice(VENDORS[api])
        self.model = rng.choice(NOT_GOING_ON)
        self.policy = rng.choice((None,) * 12 + POLICIES + ("strict",) * 2)
        self.dumps = rng.choice((compact, compact, compact, json.dumps, spaced, compact_ascii))
        self.form = rng.choice(SSE_FORMS) if rng.random() < 0.4 else "plain"
        self.wants_usage = rng.random() < 0.4
        self.with_logprobs = False
        self.with_extras = rng.random() < 0.2
        self.index_form = rng.choice(("index", "index", "whole", "none", "interleaved"))
        self.request: Json = {}
        self.bad: Any = {}  # see BAD_BODIES
        self.most_chars = rng.choice((300, 800, 1500))
        self.numbers = itertools.count()  # of the events of a Responses stream
        self.drawn_headers: list[tuple[str, str]] | None = None
        self.extra_headers: list[tuple[str, str]] = []
        self.plays: list[Play] = []
        if not stream and api in CHOICES_APIS and rng.random() < 0.3:
            self.server = "streams"

    # Texts

    def clean(self, most: int | None = None) -> str:
        text = self.rng.choice(self.texts.clean[self.lang])
        return text[: most or self.most_chars]

    def repeating(self) -> str:
        """A text that says one or two of its sentences again."""
        if self.rng.random() < 0.4:
            return self.rng.choice(self.texts.repeats)[:2500]
        sentences = sentences_of(self.clean(1200)) or [self.clean(200)]
        for _ in range(self.rng.randint(1, 2)):
            again = self.rng.choice(sentences)
            sentences.insert(self.rng.randint(1, len(sentences)), again)
        return "".join(sentences)

    def loop(self, most: int = 4000) -> str:
        """A text that ends in a loop: a real one, or one that is made of a clean text and a sentence of it."""
        if self.rng.random() < 0.6:
            lang = self.lang if self.rng.random() < 0.8 else "other"
            return self.rng.choice(self.texts.loops[lang])[:most]
        unit = self.rng.choice(sentences_of(self.clean(900)) or [self.clean(40)])
        return (self.clean(400) + "\n" + unit.strip()[:120] + " ")[:900] + (
            unit.strip()[:120] + self.rng.choice((" ", "\n", "", "\n\n"))
        ) * 30

    def arguments(self, kind: str = "clean") -> str:
        """The arguments of a tool call."""
        if kind == "clean":
            given = {"city": self.clean(20), "note": self.clean(150), "days": [1, 2, 3]}
            return self.rng.choice((json.dumps, spaced, compact))(given)
        if kind == "repeats":
            return spaced({"items": [self.clean(30)] * 3, "more": self.repeating()[:600]})
        item = json.dumps(self.clean(24), ensure_ascii=False)
        heads = ('{"names": [', '{"text": "' + self.clean(30).replace('"', "'").replace("\n", " "))
        head = self.rng.choice(heads)
        unit = f"{item}, " if head.endswith("[") else item[1:-1] + " "
        return head + unit * 60

    def json_text(self, kind: str) -> str:
        """JSON as content."""
        if kind == "loops":
            return '{\n  "rows": [' + "".join(
                f'\n    {{"name": {json.dumps(self.clean(20))}}},' * 50
            )
        if kind == "newlines":
            return spaced({"title": self.clean(40), "n": 3}) + "\n" * 400
        row = {"name": self.clean(20), "text": self.clean(90)}
        rows = [row] * 3 if kind == "repeats" else [row, {"name": "b", "n": 2}]
        return json.dumps({"rows": rows, "done": True}, ensure_ascii=False, indent=2)

    def pieces(self, text: str) -> list[str]:
        """The text as it comes, about as long as tokens, or much longer."""
        longest = self.rng.choice((4, 8, 8, 16, 60, 400))
        pieces = []
        at = 0
        while at < len(text):
            size = self.rng.randint(1, longest)
            pieces.append(text[at : at + size])
            at += size
        return pieces

    # Requests

    def case(self, number: int) -> Case:
        headers = [("content-type", "application/json"), ("user-agent", "parity/1")]
        if self.api == "messages":
            headers.append(("anthropic-version", "2023-06-01"))
        if self.rng.random() < 0.3:
            key = ("x-api-key", "k") if self.api == "messages" else ("authorization", "Bearer k")
            headers.append(key)
        body: Any = self.request_body()
        dumps = self.rng.choice((compact, json.dumps, spaced))
        target = PATHS[self.api] + self.rng.choice(("",) * 9 + ("?api-version=2025-01-01",))
        headers += self.extra_headers
        bad = self.bad
        if bad or not isinstance(bad, dict):
            body = {**body, **bad} if isinstance(bad, dict) else bad
        sent = body if isinstance(body, bytes) else dumps(body).encode()
        args = (number, self.kind, self.api, self.server, self.stream, "POST", target)
        refusal = Play(
            [(0.0, http_head(400, [("content-length", "2"), *self.answer_headers()]) + b"{}")]
        )
        return Case(*args, headers, sent, self.plays, refusal)

    def request_body(self) -> Json:
        rng = self.rng
        body: Json = {"model": self.model}
        asked = self.clean(80)
        if self.api == "completions":
            body["prompt"] = asked
        else:
            turns: list[Json] = [{"role": "user", "content": asked}]
            if rng.random() < 0.3:  # what strict compares with
                turns = [
                    {"role": "user", "content": "Hello"},
                    {"role": "assistant", "content": self.clean(600)},
                    *turns,
                ]
            if rng.random() < 0.2 and self.api == "chat":
                turns = [{"role": "system", "content": "Be brief."}, *turns]
            if rng.random() < 0.2 and self.api != "responses":
                turns[-1] = {"role": "user", "content": [{"type": "text", "text": asked}]}
            body["input" if self.api == "responses" else "messages"] = turns
        if self.api == "messages":
            body["max_tokens"] = 4096
        elif self.api in CHOICES_APIS and rng.random() < 0.3:
            name = rng.choice(("max_tokens", "max_completion_tokens"))
            body[name] = rng.choice((100, 5000))
        if rng.random() < 0.3:
            body["temperature"] = rng.choice((0, 0.7, 1.0))
        if self.stream or rng.random() < 0.2:
            body["stream"] = self.stream
        if self.stream and self.wants_usage and self.api in CHOICES_APIS:
            body["stream_options"] = {"include_usage": True}
        if self.with_logprobs and self.api in CHOICES_APIS:
            body["logprobs"] = True if self.api == "chat" else 2
        if self.policy or rng.random() < 0.05:
            body["repetition"] = {"policy": self.policy} if self.policy else {"heal": False}
        if self.with_extras:
            body["parity_extra"] = {"é": [1, 2.5, None]}
        return body | self.request

    # Answers

    def says(self, *choices: Choice) -> None:
        """The upstream answers the next request with this."""
        if self.streams_upstream:
            self.plays.append(self.streamed(self.encoded(self.events(list(choices)))))
        else:
            self.plays.append(self.whole(self.body(list(choices))))

    @property
    def streams_upstream(self) -> bool:
        return self.stream or self.server == "streams"

    @property
    def usage_comes(self) -> bool:
        return self.wants_usage or (self.server == "streams" and not self.stream)

    def events(self, choices: list[Choice]) -> list[Json]:
        writers = {
            "chat": chat_events,
            "completions": text_events,
            "responses": responses_events,
            "messages": messages_events,
        }
        return writers[self.api](self, choices)

    def body(self, choices: list[Choice]) -> Json:
        writers = {
            "chat": chat_body,
            "completions": text_body,
            "responses": responses_body,
            "messages": messages_body,
        }
        return writers[self.api](self, choices)

    def encoded(self, events: list[Json], last: bool = True) -> list[bytes]:
        """The events of a stream as bytes, one after another."""
        form = self.form
        encoded = [encode_event(event, self.dumps, form) for event in events]
        if last and self.api in CHOICES_APIS:
            encoded.append(encode_event("[DONE]", self.dumps, form))
        if form == "comments":
            comments = (b": keep-alive\n\n", b":\n\n", b": OPENROUTER PROCESSING\n\n")
            for _ in range(4):
                encoded.insert(self.rng.randint(0, len(encoded)), self.rng.choice(comments))
        if form == "bom":
            encoded[:1] = [b"\xef\xbb\xbf" + encoded[0]]
        if form == "no last line end" and encoded:
            encoded[-1] = encoded[-1].rstrip(b"\n")
        return encoded

    # HTTP

    def streamed(
        self, events: list[bytes], ending: Literal["keep", "close", "reset", "unended"] = "keep"
    ) -> Play:
        """The events as an HTTP response. ending: `unended` lacks the last chunk."""
        rng = self.rng
        framing = rng.choice(
            ("event", "event", "event", "groups", "odd", "length", "close", "gzip")
        )
        if self.server == "streams":
            framing = "event"  # the usage must not come in one read with a loop: see `paced`
        if ending != "keep":
            framing = rng.choice(("event", "groups", "odd"))
        kind = rng.choice(("text/event-stream", "text/event-stream; charset=utf-8"))
        headers = [("content-type", kind), *self.answer_headers()]
        body = b"".join(events)
        frames = [body]
        if framing == "event":
            frames = events
        elif framing == "groups":
            size = rng.randint(2, 9)
            frames = [b"".join(events[at : at + size]) for at in range(0, len(events), size)]
        elif framing == "odd":
            size = rng.choice((7, 61, 333, 4099))
            frames = [body[at : at + size] for at in range(0, len(body), size)]
        elif framing == "gzip":
            headers.append(("content-encoding", "gzip"))
            frames = [gzip.compress(body, mtime=0)]
        if framing in ("length", "close"):
            if framing == "length":
                headers.append(("content-length", str(len(body))))
            sent = frames
        else:
            headers.append(("transfer-encoding", "chunked"))
            sent = [b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames if frame]
            if ending != "unended" and ending != "reset":
                sent.append(b"0\r\n\r\n")
        closes = ending in ("close", "unended") or framing == "close"
        play = self.paced(http_head(200, headers), sent)
        play.ending = "reset" if ending == "reset" else "close" if closes else "keep"
        return play

    def whole(self, body: Json | bytes, status: int = 200, **more: str) -> Play:
        kind = "application/json"
        sent = body if isinstance(body, bytes) else self.dumps(body).encode()
        headers = {"content-type": kind} | {
            name.replace("_", "-"): value for name, value in more.items()
        }
        pairs = [*headers.items(), *self.answer_headers()]
        if self.rng.random() < 0.25 and sent:
            pairs.append(("transfer-encoding", "chunked"))
            size = self.rng.choice((13, 1000))
            frames = [sent[at : at + size] for at in range(0, len(sent), size)]
            return self.paced(
                http_head(status, pairs),
                [*(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames), b"0\r\n\r\n"],
            )
        pairs.append(("content-length", str(len(sent))))
        return self.paced(http_head(status, pairs), [sent])

    def answer_headers(self) -> list[tuple[str, str]]:
        """Headers of the upstream's own. All attempts at an answer have the same, for which attempt's the reader gets depends on where
        reads end."""
        headers = [
            ("x-request-id", "req_upstream"),
            ("openai-processing-ms", "12"),
            ("x-ratelimit-remaining-requests", "99"),
            ("cache-control", "no-store"),
            ("server", "uvicorn"),
            ("set-cookie", "a=b; path=/"),
            ("retry-after", "3"),
        ]
        if self.drawn_headers is None:
            self.drawn_headers = [header for header in headers if self.rng.random() < 0.15]
        return self.drawn_headers

    def paced(self, head: bytes, parts: list[bytes]) -> Play:
        """Head and parts in one write, in some, or cut at odd places."""
        rng = self.rng
        data = head + b"".join(parts)
        how = rng.choice(("one", "one", "some", "some", "odd"))
        pause = STEADY_PAUSE_SECONDS if self.steady else PAUSE_SECONDS
        if how == "one":
            places: list[int] = []
        elif how == "some":
            ends = list(itertools.accumulate([len(head), *map(len, parts)]))[:-1]
            places = sorted(rng.sample(ends, min(len(ends), 2 if self.steady else 5)))
        else:
            places = sorted(rng.sample(range(1, len(data)), min(len(data) - 1, 4)))
        cuts = [0, *places, len(data)]
        writes = [(0.0 if at == 0 else pause, data[at:end]) for at, end in itertools.pairwise(cuts)]
        if self.server == "streams" and len(parts) > 4:  # what follows a loop comes later
            last = sum(map(len, parts[-4:]))
            writes = [(0.0, data[:-last]), (HANG_UP_SECONDS, data[-last:])]
        return Play([write for write in writes if write[1]])


SSE_FORMS = (
    "comments",
    "crlf",
    "cr",
    "no space",
    "named",
    "ids",
    "bom",
    "several lines",
    "no last line end",
)


def encode_event(event: Json | str, dumps: Callable[[Any], str], form: str) -> bytes:
    """One server-sent event. form: how servers write it."""
    data = event if isinstance(event, str) else dumps(event)
    if form == "several lines" and isinstance(event, dict):
        data = json.dumps(event, indent=1, ensure_ascii=False)
    space = "" if form == "no space" else " "
    lines = [f"data:{space}{line}" for line in data.split("\n")]
    if isinstance(event, dict) and "type" in event:
        lines.insert(0, f"event:{space}{event['type']}")
    elif form == "named":
        lines.insert(0, "event: message")
    if form == "ids":
        lines = ["id: 7", "retry: 3000", *lines]
    end = {"crlf": "\r\n", "cr": "\r"}.get(form, "\n")
    return (end.join(lines) + end + end).encode("utf-8", "surrogatepass")


def http_head(status: int, headers: list[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} OK", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


# Chat and text completions, as servers write them


def count_tokens(choices: list[Choice]) -> int:
    return sum(len(part.text) for choice in choices for part in choice.parts) // 4 + 1


def usage_of(draft: Draft, choices: list[Choice]) -> Json:
    num = count_tokens(choices)
    usage: Json = {"prompt_tokens": 17, "completion_tokens": num, "total_tokens": num + 17}
    if draft.vendor == "openai":
        usage["prompt_tokens_details"] = {"cached_tokens": 0, "audio_tokens": 0}
        usage["completion_tokens_details"] = {"reasoning_tokens": 0}
    return usage


def head_of(draft: Draft, whole: bool) -> Json:
    kind = "chat.completion" if draft.api == "chat" else "text_completion"
    if draft.api == "chat" and not whole:
        kind += ".chunk"
    head = {"id": f"chatcmpl-{draft.rng.randrange(10**12):x}", "object": kind}
    return {**head, "created": 1764000000, "model": draft.model}


def in_order(draft: Draft, head: Json, choices: list[Json]) -> Json:
    """A chunk with its fields in the order that the vendor writes."""
    chunk: Json = {**head, "choices": choices}
    match draft.vendor:
        case "llama.cpp":
            chunk = {"choices": choices, "created": head["created"], "id": head["id"]}
            chunk |= {"model": head["model"], "system_fingerprint": "b7123-f00", **head}
        case "ollama":
            chunk = {**head, "system_fingerprint": "fp_ollama", "choices": choices}
        case "openai":
            more = {"service_tier": "default", "system_fingerprint": "fp_1"}
            chunk = {**head, **more, "choices": choices}
        case "openrouter":
            chunk = {"id": head["id"], "provider": "Novita", **head, "choices": choices}
    if draft.with_extras:
        chunk["extra_field"] = {"nested": ["x", 1.5, None]}
    return chunk


def chat_choice(draft: Draft, index: int, delta: Json, finish: str | None, logprobs: Any) -> Json:
    match draft.vendor:
        case "llama.cpp":
            choice: Json = {"finish_reason": finish, "index": index, "delta": delta}
            return choice | ({"logprobs": logprobs} if logprobs else {})
        case "ollama":
            choice = {"index": index, "delta": {"role": "assistant", "content": "", **delta}}
            return choice | ({"logprobs": logprobs} if logprobs else {}) | {"finish_reason": finish}
        case "vllm":
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            return choice | ({"stop_reason": None} if finish else {}) | {"token_ids": None}
        case "sglang":
            delta = {"role": None, "content": None, "reasoning_content": None, **delta}
            delta.setdefault("tool_calls", None)
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            return choice | {"matched_stop": 2 if finish else None}
        case "openrouter":
            choice = {"index": index, "delta": {"role": "assistant", "content": "", **delta}}
            return choice | {"finish_reason": finish, "native_finish_reason": finish}
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def logprobs_of(draft: Draft, piece: str) -> Json | None:
    if not draft.with_logprobs:
        return None
    if draft.api == "completions":
        return {
            "text_offset": [0],
            "token_logprobs": [-0.25],
            "tokens": [piece],
            "top_logprobs": [{piece: -0.25, "x": -3.5}],
        }
    token = {"token": piece, "logprob": -0.25, "bytes": list(piece.encode("utf-8", "replace"))}
    return {"content": [{**token, "top_logprobs": [token]}], "refusal": None}


def chat_deltas(draft: Draft, choice: Choice) -> list[tuple[Json, str]]:
    """The deltas of a choice in order, each with the content it adds."""
    deltas: list[tuple[Json, str]] = []
    if draft.vendor in ("vllm", "openai", "sglang", "deepseek"):
        refusal = {"refusal": None} if draft.vendor == "openai" else {}
        deltas.append(({"role": "assistant", "content": "", **refusal}, ""))
    elif draft.vendor == "llama.cpp":
        deltas.append(({"role": "assistant", "content": None}, ""))
    slot = draft.rng.choice(("reasoning_content", "reasoning"))
    slot = {"sglang": "reasoning_content", "openrouter": "reasoning"}.get(draft.vendor, slot)
    calls: list[list[Json]] = []
    for part in choice.parts:
        if part.channel == "tool":
            calls.append(call_deltas(draft, part, len(calls)))
            continue
        name = slot if part.channel == "reasoning" else part.channel
        for piece in draft.pieces(part.text):
            delta: Json = {name: piece}
            if draft.vendor == "deepseek" and name.startswith("reasoning"):
                delta = {"content": None, name: piece}
            if draft.vendor == "openrouter" and name == "reasoning":
                delta["reasoning_details"] = [{"type": "reasoning.text", "text": piece}]
            deltas.append((delta, piece if part.channel == "content" else ""))
    if draft.index_form == "interleaved":
        in_turn = [delta for turn in itertools.zip_longest(*calls) for delta in turn if delta]
    else:
        in_turn = [delta for call in calls for delta in call]
    return deltas + [(delta, "") for delta in in_turn]


def call_deltas(draft: Draft, part: Part, index: int) -> list[Json]:
    """The deltas of one tool call."""
    name, id = part.call
    if draft.index_form == "function":  # the API of 2023
        first: Json = {"function_call": {"name": name, "arguments": ""}}
        return [
            first,
            *({"function_call": {"arguments": piece}} for piece in draft.pieces(part.text)),
        ]
    head = {} if draft.index_form == "none" else {"index": index}
    if draft.index_form in ("whole", "none"):
        function = {"name": name, "arguments": part.text}
        return [{"tool_calls": [{**head, "id": id, "type": "function", "function": function}]}]
    function = {"name": name, "arguments": ""}
    begins = {"tool_calls": [{**head, "id": id, "type": "function", "function": function}]}
    return [
        begins,
        *(
            {"tool_calls": [{**head, "function": {"arguments": piece}}]}
            for piece in draft.pieces(part.text)
        ),
    ]


def chat_events(draft: Draft, choices: list[Choice]) -> list[Json]:
    head = head_of(draft, whole=False)
    lanes = []
    for index, choice in enumerate(choices):
        lane = [
            chat_choice(draft, index, delta, None, logprobs_of(draft, piece) if piece else None)
            for delta, piece in chat_deltas(draft, choice)
        ]
        last: Json = {"content": ""} if draft.vendor == "vllm" else {}
        lane.append(chat_choice(draft, index, last, choice.finish, None))
        lanes.append(lane)
    return choice_events(draft, head, lanes, choices)


def choice_events(
    draft: Draft, head: Json, lanes: list[list[Json]], choices: list[Choice]
) -> list[Json]:
    """The chunks of all choices, taken in turn, some two in one chunk; then the usage."""
    usage = usage_of(draft, choices)
    continuous = draft.vendor == "vllm" and draft.wants_usage and draft.rng.random() < 0.2
    continuous = continuous and draft.server != "streams"
    together = len(lanes) > 1 and draft.rng.random() < 0.2
    chunks: list[Json] = []
    for turn in itertools.zip_longest(*lanes):
        present = [choice for choice in turn if choice]
        for group in [present] if together else [[choice] for choice in present]:
            chunk = in_order(draft, head, group)
            if continuous:
                chunk["usage"] = {**usage, "completion_tokens": len(chunks)}
            elif draft.vendor == "openai" and draft.usage_comes:
                chunk["usage"] = None
            chunks.append(chunk)
    if draft.vendor == "llama.cpp":
        chunks[-1]["timings"] = {"prompt_n": 17, "predicted_ms": 812.5}
    if draft.usage_comes:
        if draft.vendor in ("deepseek", "openrouter"):
            chunks[-1]["usage"] = usage
        else:
            chunks.append({**in_order(draft, head, []), "usage": usage})
    return chunks


def text_events(draft: Draft, choices: list[Choice]) -> list[Json]:
    head = head_of(draft, whole=False)
    lanes = []
    for index, choice in enumerate(choices):
        text = "".join(part.text for part in choice.parts if part.channel != "tool")
        lane = [text_choice(draft, index, piece, None) for piece in draft.pieces(text)]
        lane.append(text_choice(draft, index, "", choice.finish))
        lanes.append(lane)
    return choice_events(draft, head, lanes, choices)


def text_choice(draft: Draft, index: int, text: str, finish: str | None) -> Json:
    logprobs = logprobs_of(draft, text) if text else None
    if draft.vendor == "llama.cpp":
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}
    if draft.vendor == "ollama":
        return {"text": text, "index": index, "finish_reason": finish}
    choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
    return choice | ({"stop_reason": None} if draft.vendor == "vllm" else {})


def chat_body(draft: Draft, choices: list[Choice]) -> Json:
    slot = draft.rng.choice(("reasoning_content", "reasoning"))
    listed = []
    for index, choice in enumerate(choices):
        message: Json = {"role": "assistant", "content": None}
        calls = []
        for part in choice.parts:
            if part.channel == "tool":
                function = {"name": part.call[0], "arguments": part.text}
                calls.append({"id": part.call[1], "type": "function", "function": function})
            else:
                name = slot if part.channel == "reasoning" else part.channel
                message[name] = (message.get(name) or "") + part.text
        if calls and draft.index_form == "function":
            message["function_call"] = calls[0]["function"]
        elif calls or draft.vendor == "vllm":
            message["tool_calls"] = calls
        text = message["content"]
        logprobs = logprobs_of(draft, text) if text else None
        entry = {"index": index, "message": message, "logprobs": logprobs}
        listed.append({**entry, "finish_reason": choice.finish})
    return {**in_order(draft, head_of(draft, True), listed), "usage": usage_of(draft, choices)}


def text_body(draft: Draft, choices: list[Choice]) -> Json:
    listed = [
        text_choice(draft, index, "".join(part.text for part in choice.parts), choice.finish)
        for index, choice in enumerate(choices)
    ]
    return {**in_order(draft, head_of(draft, True), listed), "usage": usage_of(draft, choices)}


# Responses


def response_of(draft: Draft, output: list[Json], choice: Choice, status: str) -> Json:
    num = count_tokens([choice])
    usage = {
        "input_tokens": 17,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": num,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num + 17,
    }
    response: Json = {"id": "resp_1", "object": "response", "created_at": 1764000000}
    response |= {"status": status, "error": None, "incomplete_details": None}
    if status == "incomplete":
        response["incomplete_details"] = {"reason": "max_output_tokens"}
    response |= {"model": draft.model, "output": output, "parallel_tool_calls": True}
    if draft.with_extras:
        response |= {"metadata": {"a": "b"}, "output_text": output_text(output)}
    return response | {"usage": usage if status != "in_progress" else None}


def output_text(output: list[Json]) -> str:
    parts = [part for item in output for part in item.get("content") or ()]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")


def item_of(draft: Draft, part: Part, number: int, status: str = "completed") -> Json:
    """An item of the output. A reasoning item has a summary (OpenAI) or content (vLLM, llama.cpp)."""
    text = part.text if status == "completed" else ""
    if part.channel == "tool":
        item: Json = {"id": f"fc_{number}", "type": "function_call", "status": status}
        return item | {"arguments": text, "call_id": part.call[1], "name": part.call[0]}
    if part.channel == "reasoning":
        item = {"id": f"rs_{number}", "type": "reasoning", "summary": []}
        if draft.vendor == "openai":
            return item | {"summary": [{"type": "summary_text", "text": text}] if text else []}
        return item | {"content": [{"type": "reasoning_text", "text": text}] if text else []}
    if part.channel == "refusal":
        content: list[Json] = [{"type": "refusal", "refusal": text}]
    else:
        content = [{"type": "output_text", "annotations": [], "logprobs": [], "text": text}]
        if text and draft.with_extras:
            content[0]["annotations"] = annotations(text)
    item = {"id": f"msg_{number}", "type": "message", "status": status}
    return item | {"content": content if text else [], "role": "assistant"}


def annotations(text: str) -> list[Json]:
    site = {"url": "https://example.org/a", "title": "A"}
    places = [(0, min(5, len(text))), (len(text) * 3 // 4, len(text))]
    return [
        {"type": "url_citation", "start_index": start, "end_index": end, **site}
        for start, end in places
    ]


# By the channel: what its events are called, and the place that they name.
RESPONSES_EVENTS = {
    "content": ("output_text", "content_part", "content_index"),
    "refusal": ("refusal", "content_part", "content_index"),
    "summary": ("reasoning_summary_text", "reasoning_summary_part", "summary_index"),
    "reasoning": ("reasoning_text", "reasoning_part", "content_index"),
    "tool": ("function_call_arguments", "", ""),
}


def responses_events(draft: Draft, choices: list[Choice]) -> list[Json]:
    choice = choices[0]
    numbered = draft.vendor != "llama.cpp"
    events: list[Json] = []

    def add(kind: str, **fields: Any) -> None:
        number = {"sequence_number": len(events)} if numbered else {}
        events.append({"type": f"response.{kind}", **number, **fields})

    begun = response_of(draft, [], choice, "in_progress")
    add("created", response=begun)
    add("in_progress", response=begun)
    for position, part in enumerate(choice.parts):
        item_events(draft, add, part, position)
    output = [item_of(draft, part, position) for position, part in enumerate(choice.parts)]
    status = "incomplete" if choice.finish == "length" else "completed"
    add(status, response=response_of(draft, output, choice, status))
    return events


def item_events(draft: Draft, add: Callable[..., None], part: Part, position: int) -> None:
    channel = part.channel
    key = "summary" if channel == "reasoning" and draft.vendor == "openai" else channel
    name, part_name, place_name = RESPONSES_EVENTS[key]
    whole = item_of(draft, part, position)
    add(
        "output_item.added",
        output_index=position,
        item=item_of(draft, part, position, "in_progress"),
    )
    place: Json = {"item_id": whole["id"], "output_index": position}
    if place_name:
        place[place_name] = 0
    listed = whole.get("summary" if key == "summary" else "content") or [None]
    if part_name and listed[0] and not (channel == "reasoning" and draft.vendor == "llama.cpp"):
        empty = {**listed[0], "refusal" if channel == "refusal" else "text": ""}
        if "annotations" in empty:
            empty["annotations"] = []
        add(f"{part_name}.added", **place, part=empty)
    for piece in draft.pieces(part.text):
        more: Json = {"logprobs": []} if channel == "content" else {}
        if draft.with_logprobs and channel == "content":
            more = {"logprobs": [{"token": piece, "logprob": -0.5, "top_logprobs": []}]}
        if draft.vendor == "openai":
            more["obfuscation"] = "x" * (len(piece) % 5)
        add(f"{name}.delta", **place, delta=piece, **more)
    if draft.with_extras and channel == "content" and part.text:
        for number, annotation in enumerate(listed[0]["annotations"]):
            index = {"annotation_index": number, "annotation": annotation}
            add("output_text.annotation.added", **place, **index)
    slot = {"tool": "arguments", "refusal": "refusal"}.get(channel, "text")
    add(f"{name}.done", **place, **{slot: part.text})
    if part_name and listed[0] and not (channel == "reasoning" and draft.vendor == "llama.cpp"):
        add(f"{part_name}.done", **place, part=listed[0])
    add("output_item.done", output_index=position, item=whole)


def responses_body(draft: Draft, choices: list[Choice]) -> Json:
    choice = choices[0]
    output = [item_of(draft, part, position) for position, part in enumerate(choice.parts)]
    status = "incomplete" if choice.finish == "length" else "completed"
    return response_of(draft, output, choice, status)


# Messages

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def message_of(draft: Draft, content: list[Json], stop_reason: str | None, usage: Json) -> Json:
    message: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": draft.model}
    message |= {"content": content, "stop_reason": stop_reason, "stop_sequence": None}
    if draft.vendor == "anthropic":
        usage = {**usage, "cache_read_input_tokens": 0, "service_tier": "standard"}
    return message | {"usage": usage}


def messages_events(draft: Draft, choices: list[Choice]) -> list[Json]:
    choice = choices[0]
    usage = {"input_tokens": 17, "output_tokens": 1}
    events: list[Json] = [
        {"type": "message_start", "message": message_of(draft, [], None, usage)},
    ]
    for index, part in enumerate(choice.parts):
        block, kind, slot = block_of(draft, part, begins=True)
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        if draft.vendor == "anthropic" and index == 0:
            events.append({"type": "ping"})
        deltas: list[Json] = [{"type": kind, slot: piece} for piece in draft.pieces(part.text)]
        if part.channel == "tool" and draft.vendor == "anthropic":
            deltas.insert(0, {"type": kind, slot: ""})
        if part.channel == "reasoning" and draft.vendor == "anthropic":
            deltas.append({"type": "signature_delta", "signature": "EqQBCkYIARgCIkD"})
        events += [
            {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
        ]
        events.append({"type": "content_block_stop", "index": index})
    num = count_tokens([choice])
    used = {"output_tokens": num} | ({"input_tokens": 17} if draft.vendor == "vllm" else {})
    reason = {"stop_reason": STOP_REASONS[choice.finish], "stop_sequence": None}
    events.append({"type": "message_delta", "delta": reason, "usage": used})
    return [*events, {"type": "message_stop"}]


def block_of(draft: Draft, part: Part, begins: bool) -> tuple[Json, str, str]:
    """A content block, and the type and the field of its deltas."""
    text = "" if begins else part.text
    if part.channel == "tool":
        given: Any = {} if begins else arguments_object(part.text)
        block = {"type": "tool_use", "id": part.call[1], "name": part.call[0], "input": given}
        return block, "input_json_delta", "partial_json"
    if part.channel == "reasoning":
        signature = "EqQBCkYIARgCIkD" if draft.vendor == "anthropic" and not begins else ""
        return (
            {"type": "thinking", "thinking": text, "signature": signature},
            "thinking_delta",
            "thinking",
        )
    return {"type": "text", "text": text}, "text_delta", "text"


def arguments_object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"text": text}


def messages_body(draft: Draft, choices: list[Choice]) -> Json:
    choice = choices[0]
    content = [block_of(draft, part, begins=False)[0] for part in choice.parts]
    usage = {"input_tokens": 17, "output_tokens": count_tokens([choice])}
    return message_of(draft, content, STOP_REASONS[choice.finish], usage)


# The kinds of answers


def said(text: str, finish: Any = "stop") -> Choice:
    return Choice([Part("content", text)], finish)


def clean(draft: Draft, i: int) -> None:
    text = draft.clean() if i % 6 else draft.rng.choice(draft.texts.forms)[:3000]
    draft.says(said(text, draft.rng.choice(("stop", "stop", "stop", "length"))))


def repeats(draft: Draft, i: int) -> None:
    draft.says(said(draft.repeating()))


def looped(draft: Draft, i: int) -> None:
    draft.says(said(draft.loop(), "length"))


def drifted(draft: Draft, i: int) -> None:
    draft.says(said(draft.rng.choice((draft.texts.drift, draft.texts.floods)[i % 5 == 0])[:4000]))


def looped_in_reasoning(draft: Draft, i: int) -> None:
    loop = draft.rng.choice(draft.texts.thoughts) if i % 2 else draft.loop()
    parts = [Part("reasoning", loop)] + [Part("content", draft.clean(300))] * (i % 3)
    draft.says(Choice(parts[:2]))


def reasoned(draft: Draft, i: int) -> None:
    thoughts = draft.repeating() if i % 3 == 0 else draft.clean()
    answer = draft.repeating() if i % 3 == 1 else draft.clean()
    if i % 7 == 0:
        answer = draft.loop()
    draft.says(Choice([Part("reasoning", thoughts), Part("content", answer)]))


def tool_part(draft: Draft, number: int, kind: str = "clean") -> Part:
    return Part("tool", draft.arguments(kind), (f"get_weather_{number}", f"call_{number}"))


def called(draft: Draft, i: int) -> None:
    calls = [tool_part(draft, number) for number in range(1 + i % 3)]
    if i % 5 == 0:
        calls.append(tool_part(draft, 7, "repeats"))
    before = [Part("content", draft.repeating() if i % 4 else draft.clean(100))] * (i % 2)
    if i % 11 == 0:
        draft.index_form = "function"
        calls = calls[:1]
    draft.says(Choice([*before, *calls], "tool_calls"))


def looped_in_arguments(draft: Draft, i: int) -> None:
    calls = [tool_part(draft, number) for number in range(i % 3)]
    if i % 9 == 0:
        draft.index_form = "function"
        calls = []
    calls.append(tool_part(draft, 8, "loops"))
    if i % 4 == 0 and draft.index_form != "function":
        calls.append(tool_part(draft, 9))
    draft.says(Choice(calls, "length" if i % 2 else "tool_calls"))


def several_choices(draft: Draft, i: int) -> None:
    num = 2 + i % 2
    choices = [said(draft.clean()) for _ in range(num)]
    for position in draft.rng.sample(range(num), (1, 1, 0, num)[i % 4]):
        choices[position] = said(draft.loop(2500) if i % 5 else draft.repeating())
    if i % 6 == 0 and draft.api == "completions":
        draft.request["prompt"] = [draft.clean(30) for _ in range(num)]
    else:
        draft.request["n"] = num
    if i % 7 == 0 and draft.api == "chat":
        choices[0].parts.insert(0, Part("reasoning", draft.loop(1500)))
    draft.says(*choices)


def in_json(draft: Draft, i: int) -> None:
    kind = ("clean", "repeats", "loops", "newlines")[i // 6 % 4]
    form: Json = {"type": draft.rng.choice(("json_object", "json_schema"))}
    if draft.api == "responses":
        draft.request["text"] = {"format": form}
    else:
        draft.request["response_format"] = form
    finish = "length" if kind in ("loops", "newlines") else "stop"
    draft.says(said(draft.json_text(kind), finish))


def with_logprobs(draft: Draft, i: int) -> None:
    draft.with_logprobs = True
    draft.says(said((draft.clean(400), draft.repeating()[:900], draft.loop(1500))[i // 6 % 3]))


def refused_by_model(draft: Draft, i: int) -> None:
    text = draft.loop(2000) if i % 4 == 0 else draft.clean(200)
    draft.says(Choice([Part("refusal", text)]))


def sse_forms(draft: Draft, i: int) -> None:
    draft.form = SSE_FORMS[i // 12 % len(SSE_FORMS)]
    draft.says(said((draft.clean(500), draft.repeating()[:900], draft.loop(1500))[i % 3]))


def by_policy(draft: Draft, i: int) -> None:
    draft.policy = POLICIES[i % len(POLICIES)]
    text = (draft.repeating(), draft.loop(2500), draft.clean(), draft.repeating())[i // 5 % 4]
    if i // 5 % 7 == 0:
        draft.request[
            {"responses": "input", "completions": "prompt"}.get(draft.api, "messages")
        ] = (
            text[:200]
            if draft.api in ("responses", "completions")
            else [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": text[:400]},
                {"role": "user", "content": "And then?"},
            ]
        )
    draft.says(said(text))


def empty(draft: Draft, i: int) -> None:
    draft.says(Choice([Part("content", "")] if i % 2 else []))


HEALS = (
    "heals",
    "twice",
    "same loop again",
    "never",
    "refused",
    "down",
    "length",
    "empty",
    "error event",
    "broken",
    "reasons",
    "calls",
    "thinks first",
    "repeats itself",
    "not event-stream",
)


def healed(draft: Draft, i: int) -> None:
    draft.model = draft.rng.choice(GOING_ON)
    if not draft.stream:
        draft.server = "streams"
    draft.policy = draft.rng.choice((None, None, None, "loops", "strict", "watch"))
    how = HEALS[i // 6 % len(HEALS)]
    draft.steady = how in ("error event", "broken")
    loop = draft.loop()
    if how == "thinks first":
        loop = "<think>\n" + loop
    draft.says(said(loop, "length"))
    again = {"twice": 1, "same loop again": 2, "never": 4}.get(how, 0)
    for _ in range(again):
        draft.says(said(loop[-1500:] if how == "same loop again" else draft.loop(2000)))
    more = " " + draft.clean(300)
    match how:
        case "never":
            return
        case "refused":
            draft.plays.append(draft.whole({"error": {"message": "no", "type": "bad"}}, 400))
        case "down":
            draft.plays.append(draft.whole(b"down", 503, content_type="text/plain"))
        case "empty":
            draft.says(said(""))
        case "length":
            draft.says(said(more, "length"))
        case "error event":
            events = draft.encoded(draft.events([said(more)])[:9], last=False)
            events.append(encode_event({"error": {"message": "oom"}}, draft.dumps, "plain"))
            draft.plays.append(draft.streamed(events))
        case "broken":
            events = draft.encoded(draft.events([said(more)])[:9], last=False)
            draft.plays.append(draft.streamed(events, "unended"))
        case "reasons" if draft.api == "chat":
            draft.says(Choice([Part("reasoning", draft.clean(200)), Part("content", more)]))
        case "calls" if draft.api == "chat":
            draft.says(Choice([Part("content", more), tool_part(draft, 1)], "tool_calls"))
        case "repeats itself":
            draft.says(said(loop[:300] + more + more))
        case "not event-stream":
            draft.plays.append(draft.whole(draft.body([said(more)])))
        case _:
            draft.says(said(more))


def http_error(draft: Draft, i: int) -> None:
    """A refusal before a byte, in the shapes that servers give it."""
    statuses = (400, 401, 403, 404, 409, 413, 422, 429, 429, 500, 502, 503, 529, 302, 204, 418)
    status = statuses[i // 8 % len(statuses)]
    message = f"This is the {status} of a server; the key was k, or {UPSTREAM_KEY}."
    anthropic = {"type": "invalid_request_error", "message": message}
    bodies: list[Json | bytes] = [
        {"error": {"message": message, "type": "invalid_request_error", "code": "bad_thing"}},
        {"error": {"message": message, "type": "x", "param": "n", "code": 400, "more": [1]}},
        {"object": "error", "message": message, "type": "BadRequestError", "code": status},
        {"type": "error", "error": anthropic, "request_id": "req_1"},
        {"detail": "Not Found"},
        {"detail": [{"loc": ["body", "n"], "msg": "bad"}]},
        {"error": message},
        {"error": {"code": 5}},
        b"<html><body>gateway down</body></html>",
        b"",
        b"\xff\xfe broken \x80",
        b"[1, 2]",
    ]
    body = bodies[i % len(bodies)]
    more = {"retry_after": str(status % 50)} if status in (429, 503, 529) or i % 9 == 0 else {}
    if status == 302:
        more["location"] = "http://127.0.0.1:9/"
    if status == 204:
        draft.plays.append(draft.paced(http_head(204, draft.answer_headers()), []))
        return
    if isinstance(body, bytes):
        more["content_type"] = "text/html"
    draft.plays.append(draft.whole(body, status, **more))


def short(draft: Draft) -> list[Json]:
    """A few events of an answer, with text that is held where i is odd."""
    draft.steady = True
    draft.form = draft.rng.choice(("plain", "plain", "crlf", "no space"))
    text = draft.rng.choice((draft.clean(300), draft.repeating()[:400]))
    return draft.events([said(text)])


def error_event(draft: Draft, i: int) -> None:
    events = short(draft)
    kept = events[: draft.rng.randint(0 if i % 6 == 0 else 2, max(2, len(events) - 2))]
    message = "CUDA out of memory"
    errors: list[Json] = [
        {"error": {"message": message, "type": "server_error", "code": 500}},
        {"error": {"object": "error", "message": message, "type": "x", "param": None}},
        {"object": "error", "message": message, "type": "InternalServerError", "code": 500},
        {"error": message},
    ]
    if draft.api == "messages" and i % 3:
        errors = [{"type": "error", "error": {"type": "overloaded_error", "message": message}}]
    if draft.api == "responses" and i % 3:
        number = {"sequence_number": len(kept)}
        failed = response_of(draft, [], said("x"), "in_progress")
        failed |= {"status": "failed", "error": {"code": "server_error", "message": message}}
        errors = [
            {"type": "error", "code": "server_error", "message": message, "param": None, **number},
            {"type": "response.failed", **number, "response": failed},
        ]
    encoded = draft.encoded(kept, last=False)
    encoded.append(encode_event(draft.rng.choice(errors), draft.dumps, draft.form))
    if draft.rng.random() < 0.3:
        encoded.append(b"data: [DONE]\n\n")
    draft.plays.append(draft.streamed(encoded))


def broken(draft: Draft, i: int) -> None:
    """The connection ends in mid-stream, in the middle of an event or behind one."""
    events = short(draft)
    kept = events[: draft.rng.randint(1, max(1, len(events) - 2))]
    encoded = draft.encoded(kept, last=False)
    if i % 3 == 0:
        encoded[-1] = encoded[-1][: len(encoded[-1]) // 2]
    if i % 5 == 0:
        encoded = []
    draft.plays.append(draft.streamed(encoded, "reset" if i % 2 else "unended"))


def broken_head(draft: Draft, i: int) -> None:
    """The connection ends before the head of the answer does, or the answer is no HTTP."""
    heads = (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nconte", b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    draft.plays.append(Play([(0.0, heads[i % len(heads)])], "close"))


def broken_body(draft: Draft, i: int) -> None:
    """A whole answer that breaks off, is no JSON, or is not the API's."""
    sent = draft.dumps(draft.body([said(draft.clean(300))])).encode()
    head = [("content-type", "application/json"), ("content-length", str(len(sent) + 9))]
    bodies: list[bytes] = [
        sent[:-9],
        b"not json",
        b"[]",
        b'{"choices": 5, "output": 5, "content": 5}',
        b"{}",
        b'{"choices": [5], "output": [5], "content": [5]}',
        b'{"choices": [{"message": 5}]}',
        b'{"choices": []}',
        sent.replace(b'"', b'\xff"', 1),
        sent.replace(b"e", b"\xff\xfe", 3),
    ]
    if i // 4 % 11 == 10:
        draft.plays.append(Play([(0.0, http_head(200, head) + sent)], "close"))
        return
    draft.plays.append(draft.whole(bodies[i // 4 % 11]))


def unended(draft: Draft, i: int) -> None:
    """The stream ends as HTTP ends, without the API's own end."""
    events = short(draft)
    kept = events[: -1 - i // 4 % 3]
    draft.plays.append(draft.streamed(draft.encoded(kept, last=False)))


def not_json(draft: Draft, i: int) -> None:
    """Data that is no JSON, or JSON of another shape, between good events."""
    events = draft.encoded(short(draft))
    bad = (
        b"data: {oops\n\n",
        b"data: \n\n",
        b"data: null\n\n",
        b"data: [1, 2]\n\n",
        b'data: "text"\n\n',
        b"data: {}\n\n",
        b'data: {"choices": null}\n\n',
        b'data: {"choices": [{"index": 0, "delta": "text"}]}\n\n',
        b'data: {"choices": [{"index": "0", "delta": {"content": 5}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "x"}, "finish_reason": null}]}\n\n',
        b'data: {"type": "unheard_of", "x": 1}\n\n',
        b'data: {"type": "content_block_delta", "index": 0, "delta": null}\n\n',
        b'data: {"type": "content_block_stop", "index": 5}\n\n',
        b'data: {"type": "response.output_text.delta", "delta": 5}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "\\ud800"}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "a\\u0000b"}}], "x": NaN}\n\n',
        b"event: ping\n\n",
        b"junk line\n\n",
    )[i // 4 % 18]
    events.insert(draft.rng.randint(1 if i % 5 else 0, len(events) - 1), bad)
    draft.plays.append(draft.streamed(events))


def not_utf8(draft: Draft, i: int) -> None:
    """Bytes that are not UTF-8 in a text, as a character cut between two tokens leaves them."""
    events = draft.encoded(short(draft))
    bad = (b"\xff", b"\xe5\xa4", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf")[i % 5]
    at = draft.rng.randrange(1, len(events))
    for quoted in (b'content":"', b'content": "', b'text":"', b'text": "', b'delta":"', b'": "'):
        events[at] = events[at].replace(quoted, quoted + bad, 1)
    draft.plays.append(draft.streamed(events))


def wrong_type(draft: Draft, i: int) -> None:
    """An answer that is whole where a stream was asked for, or the other way round."""
    kind = ("application/json", "text/html", "text/plain; charset=utf-8", "")[i // 8 % 4]
    if draft.streams_upstream:
        draft.plays.append(draft.whole(draft.body([said(draft.clean(200))]), content_type=kind))
        return
    encoded = draft.encoded(draft.events([said(draft.clean(200))]))
    kind = "text/event-stream" if i % 2 else kind
    draft.plays.append(draft.whole(b"".join(encoded), content_type=kind))


# What the server refuses itself: the body, as JSON or bytes.
BAD_BODIES: tuple[Any, ...] = (
    b"{oops",
    b"",
    b"\xff\xfe",
    [1],
    "text",
    {"model": 5},
    {"stream": "yes"},
    {"n": 0},
    {"n": "two"},
    {"n": 500},
    {"messages": 5, "prompt": {}, "input": 5},
    {"messages": [], "prompt": [], "input": []},
    {"messages": [{"role": "user", "content": 5}], "prompt": [1, "a"]},
    {"messages": [{"content": "no role"}]},
    {"repetition": {"policy": "harsh"}},
    {"repetition": 5},
    {"repetition": {"unknown": 1}},
    {"stream_options": 5},
    {"stream_options": {"include_usage": "yes"}},
    {"response_format": 5},
)


def refused_by_server(draft: Draft, i: int) -> None:
    draft.says(said("Fine."))  # some it takes: an upstream knows best what it can do
    draft.bad = BAD_BODIES[i // 8 % len(BAD_BODIES)]


KEYED = (
    "no key",
    "wrong key",
    "x-api-key",
    "right key",
    "alias",
    "unknown",
    "large",
    "refuses",
    "loop",
)


def keyed(draft: Draft, i: int) -> None:
    """A server with keys of its own, an alias and a list of models."""
    how = KEYED[i // 8 % len(KEYED)]
    draft.server, draft.policy = "keyed", None
    draft.model = {"alias": "alias", "unknown": "nobody-knows-this"}.get(how, "served-1")
    keys = {"no key": [], "wrong key": [("authorization", "Bearer wrong")]}
    given = keys.get(how, [("authorization", f"Bearer {CLIENT_KEY}")])
    draft.extra_headers = [("x-api-key", CLIENT_KEY)] if how == "x-api-key" else given
    if how == "large":
        draft.request["padding"] = "x" * 70_000
    if how == "refuses":
        error = {"message": f"the key {UPSTREAM_KEY} is wrong", "type": "auth"}
        draft.plays.append(draft.whole({"error": error}, 401))
    else:
        draft.says(said(draft.loop(2000) if how == "loop" else draft.clean(300)))


@dataclass(frozen=True)
class Kind:
    """group: so many in a row are drawn alike. streams: whether all, none or two of three are streamed."""

    count: int
    make: Callable[[Draft, int], None]
    apis: tuple[Api, ...] = APIS
    group: int = 1
    streams: bool | None = None


KINDS = {
    "clean": Kind(720, clean),
    "repeats": Kind(480, repeats),
    "looped": Kind(600, looped),
    "drift and flood": Kind(160, drifted),
    "reasoning, then content": Kind(300, reasoned, TOOL_APIS),
    "looped in reasoning": Kind(270, looped_in_reasoning, TOOL_APIS),
    "tool calls": Kind(330, called, TOOL_APIS),
    "looped tool arguments": Kind(270, looped_in_arguments, TOOL_APIS),
    "several choices": Kind(240, several_choices, CHOICES_APIS),
    "healed": Kind(540, healed, CHOICES_APIS),
    "JSON": Kind(216, in_json, ("chat", "completions", "responses")),
    "logprobs": Kind(144, with_logprobs, ("chat", "completions", "responses")),
    "refusals": Kind(72, refused_by_model, TOOL_APIS),
    "by policy": Kind(400, by_policy, group=5),
    "forms of events": Kind(324, sse_forms, streams=True),
    "empty": Kind(48, empty),
    "HTTP error": Kind(256, http_error),
    "error event": Kind(160, error_event, streams=True),
    "broken connection": Kind(120, broken, streams=True),
    "broken head": Kind(24, broken_head),
    "broken body": Kind(88, broken_body, streams=False),
    "no end": Kind(96, unended, streams=True),
    "not JSON": Kind(144, not_json, streams=True),
    "not UTF-8": Kind(80, not_utf8, streams=True),
    "wrong content type": Kind(64, wrong_type),
    "refused by the server": Kind(168, refused_by_server),
    "keys and aliases": Kind(144, keyed),
}


def plan(share: float, only: list[str]) -> list[tuple[str, int]]:
    """The kind and the place in it of every case; cases of all kinds come mixed, always in the same order."""
    listed = [
        (name, i)
        for name, kind in KINDS.items()
        if not only or name in only
        for i in range(max(1, round(kind.count * share)))
    ]
    random.Random("order").shuffle(listed)
    return listed


def make_case(number: int, name: str, i: int, seed: int, texts: Texts) -> Case:
    kind = KINDS[name]
    at = i // kind.group
    api = kind.apis[at % len(kind.apis)]
    stream = at // len(kind.apis) % 3 != 2 if kind.streams is None else kind.streams
    draft = Draft(name, f"{seed}:{name}:{at}", texts, api, stream)
    if name == "broken body":
        draft.server = "default"
    kind.make(draft, i)
    return draft.case(number)


# The upstream


@dataclass
class Mock:
    """An upstream that answers the n-th request for a case with the case's n-th play."""

    cases: dict[str, Case] = field(default_factory=dict)
    requests: dict[str, list[Json]] = field(default_factory=lambda: defaultdict(list))
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = [line.split(": ", 1) for line in lines]
        named: dict[str, str] = dict(headers)
        body = await reader.readexactly(int(named.get("content-length", 0)))
        method, target, _ = first.split(" ")
        if target == "/v1/models":
            writer.write(self._models())
            return True
        key = named.get("x-answer", "")
        request = {
            "request": f"{method} {target}",
            "headers": [
                [name, value.replace(f"127.0.0.1:{self.port}", "mock")]
                for name, value in headers
                if name not in VOLATILE_HEADERS
            ],
            "body": as_text(body),
        }
        self.requests[key].append(request)
        case, attempt = self.cases[key], len(self.requests[key])
        play = case.plays[attempt - 1] if attempt <= len(case.plays) else case.refusal
        return await self._play(play, reader, writer)

    async def _play(
        self, play: Play, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        for pause, data in play.writes:
            until = time.monotonic() + pause
            while time.monotonic() < until and not reader.at_eof():  # noqa: ASYNC110 no event tells
                await asyncio.sleep(min(pause, 0.01))
            if reader.at_eof() or writer.is_closing():
                return False
            writer.write(data)
            await writer.drain()
        if play.ending == "reset":
            await asyncio.sleep(2 * STEADY_PAUSE_SECONDS)  # a reset takes along what was not read
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        return play.ending == "keep"

    @staticmethod
    def _models() -> bytes:
        listed = [{"id": name, "object": "model", "owned_by": by} for name, by in OWNERS.items()]
        body = json.dumps({"object": "list", "data": listed}).encode()
        head = [("content-type", "application/json"), ("content-length", str(len(body)))]
        return http_head(200, head) + body


# The servers, and a client


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def failure_at_start(ports: dict[str, int], running: list[Process], folder: Path) -> str | None:
    """Waits until all servers are ready. Returns the log of one that will not be."""
    for (name, port), process in zip(ports.items(), running, strict=True):
        for _ in range(300):
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5):
                break
            if process.poll() is not None:
                return (folder / f"{name}.log").read_text("utf-8")
            time.sleep(0.1)
        else:
            return (folder / f"{name}.log").read_text("utf-8")
    return None


@contextmanager
def servers(
    path: str, python: str, mock_port: int, folder: Path
) -> Iterator[tuple[dict[str, int], list[Process]]]:
    """`dedup serve` from the Python path, under each configuration."""
    ports = {name: free_port() for name in SERVERS}
    environment = {name: value for name, value in os.environ.items() if "DEDUP" not in name}
    environment |= {"PYTHONPATH": path, "PARITY_KEY": UPSTREAM_KEY}
    running: list[Process] = []
    try:
        for name, settings in SERVERS.items():
            config = folder / f"{name}.toml"
            more = 'api_key_env = "PARITY_KEY"\nmodels = ["served-*"]\n' if name == "keyed" else ""
            upstream = f'[[upstreams]]\nurl = "http://127.0.0.1:{mock_port}/v1"\nname = "mock"\n'
            config.write_text(settings + upstream + more, encoding="utf-8")
            command = [python, "-c", "from dedup.cli import main; main()", "serve"]
            command += ["--config", str(config), "--port", str(ports[name])]
            with (folder / f"{name}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
                )
        yield ports, running
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass
class Answer:
    status: int
    headers: list[list[str]]
    body: bytes
    ended: str = "whole"
    keeps: bool = True


class Client:
    """One keep-alive connection to each server."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._ports = ports
        self._open: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def ask(self, case: Case, key: str) -> Answer:
        headers = [("host", "parity"), ("x-answer", key), *case.headers]
        headers.append(("content-length", str(len(case.body))))
        head = f"{case.method} {case.target} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        return await self.send(case.server, head.encode("latin-1") + case.body)

    async def get(self, server: str, target: str) -> Answer:
        return await self.send(server, f"GET {target} HTTP/1.1\r\nhost: parity\r\n\r\n".encode())

    async def send(self, server: str, request: bytes) -> Answer:
        if server not in self._open:
            connection = asyncio.open_connection("127.0.0.1", self._ports[server], limit=2**24)
            self._open[server] = await connection
        reader, writer = self._open[server]
        writer.write(request)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                answer = await read_answer(reader)
        except TimeoutError:
            answer = Answer(0, [], b"", "timeout", keeps=False)
        if not answer.keeps:
            writer.close()
            del self._open[server]
        return answer

    def close(self) -> None:
        for _, writer in self._open.values():
            writer.close()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """One HTTP response; the body without its framing."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return Answer(0, [], b"", "no head", keeps=False)
    first, *lines = head.rstrip("\r\n").split("\r\n")
    headers = [line.split(": ", 1) for line in lines]
    named = {name.lower(): value for name, value in headers}
    kept = sorted([name.lower(), value] for name, value in headers)
    kept = [header for header in kept if header[0] not in VOLATILE_HEADERS]
    answer = Answer(int(first.split(" ")[1]), kept, b"")
    answer.keeps = named.get("connection") != "close"
    body = bytearray()
    try:
        if named.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        elif "content-length" in named:
            body += await reader.readexactly(int(named["content-length"]))
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        body += getattr(error, "partial", b"")
        answer.ended, answer.keeps = "broken", False
    answer.body = bytes(body)
    return answer


def as_text(data: bytes) -> str | Json:
    """The bytes for a JSON line: as text where they are UTF-8, which nearly all are."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


# record


async def record(options: argparse.Namespace, texts: Texts) -> None:
    cases = plan(options.share, options.only)
    mock = Mock()
    listener = await asyncio.start_server(mock.serve, "127.0.0.1", 0, limit=2**24)
    mock.port = listener.sockets[0].getsockname()[1]
    path = options.pythonpath or f"{options.tree}:{options.tree / 'server'}"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, options.into.open("w", encoding="utf-8") as out:
        with servers(path, options.python, mock.port, Path(folder)) as (ports, running):
            # In a thread, for the servers ask the upstream here for its models.
            failure = await asyncio.to_thread(failure_at_start, ports, running, Path(folder))
            if failure is not None:
                sys.exit(f"a server does not start:\n{failure}")
            head = {"answers": len(cases), "seed": options.seed, "texts": texts.digest}
            print(json.dumps(head), file=out)
            await ask_all(cases, mock, ports, options.seed, texts, out, options.concurrency)
            metrics = {name: await counters(name, ports) for name in ports}
            print(json.dumps({"metrics": metrics}), file=out)
        logs = {name: (Path(folder) / f"{name}.log").read_text("utf-8") for name in SERVERS}
    listener.close()
    seconds = time.perf_counter() - began
    print(f"{len(cases)} answers in {seconds:.0f} s: {options.into}")
    for name, log in logs.items():
        for line in [line for line in log.splitlines() if "Traceback" in line][:3]:
            print(f"the log of the server {name!r} has a traceback: {line}")


async def ask_all(
    cases: list[tuple[str, int]],
    mock: Mock,
    ports: dict[str, int],
    seed: int,
    texts: Texts,
    out: Any,
    concurrency: int,
) -> None:
    """Asks for all answers, some at a time, and writes the lines in the order of the cases."""
    numbers = iter(range(len(cases)))
    done: dict[int, str] = {}
    written = 0
    with tqdm(total=len(cases), unit="answer") as progress:

        async def work() -> None:
            nonlocal written
            client = Client(ports)
            for number in numbers:
                case = make_case(number, *cases[number], seed, texts)
                key = mock_key = str(number)
                mock.cases[mock_key] = case
                answer = await client.ask(case, key)
                done[number] = json.dumps(line_of(case, answer, mock.requests.pop(key, [])))
                del mock.cases[mock_key]
                progress.update()
                while written in done:
                    print(done.pop(written), file=out)
                    written += 1
            client.close()

        await asyncio.gather(*[work() for _ in range(concurrency)])


def line_of(case: Case, answer: Answer, requests: list[Json]) -> Json:
    return {
        "number": case.number,
        "kind": case.kind,
        "api": case.api,
        "stream": case.stream,
        "server": case.server,
        "status": answer.status,
        "ended": answer.ended,
        "headers": answer.headers,
        "upstream": requests,
        "body": as_text(answer.body),
    }


async def counters(server: str, ports: dict[str, int]) -> dict[str, float]:
    """The samples of the counters, when no answer is in progress any more."""
    client = Client(ports)
    text = ""
    for _ in range(100):
        text = (await client.get(server, "/metrics")).body.decode()
        running = re.findall(r"^dedup_streams_in_progress\S* (\S+)", text, re.M)
        if not any(map(float, running)):
            break
        await asyncio.sleep(0.1)
    client.close()
    names = set(re.findall(r"^# TYPE (\S+) counter", text, re.M))
    samples = re.findall(r"^(\w+)(\S*) (\S+)$", text, re.M)
    return {name + labels: float(value) for name, labels, value in samples if name in names}


# compare


@dataclass
class Difference:
    number: int
    what: str
    example: str


def compare(old_path: Path, new_path: Path, examples: int) -> int:
    """Prints what is equal and what is not. Returns an exit status."""
    old_file, new_file = old_path.open(encoding="utf-8"), new_path.open(encoding="utf-8")
    with old_file, new_file:
        heads = [json.loads(next(file)) for file in (old_file, new_file)]
        if heads[0] != heads[1]:
            print(f"the two runs asked for different answers: {heads[0]} and {heads[1]}")
            return 2
        num = heads[0]["answers"]
        equal = as_json = 0
        different: dict[str, list[Difference]] = defaultdict(list)
        total: Counter[str] = Counter()
        metrics: list[Json] = []
        for one, other in zip(old_file, new_file, strict=True):
            old, new = json.loads(one), json.loads(other)
            if "metrics" in old:
                metrics = [old["metrics"], new["metrics"]]
                continue
            total[old["kind"]] += 1
            if one == other:
                equal += 1
            elif normal(old) == normal(new):
                as_json += 1
            else:
                different[old["kind"]].append(difference(old, new))
    print(f"{num} answers: {equal} are equal byte by byte, {as_json} more as JSON events only")
    for kind in sorted(different, key=lambda kind: -len(different[kind])):
        show_kind(kind, different[kind], total[kind], examples)
    same_metrics = compare_metrics(*metrics)
    return 0 if equal == num and same_metrics else 1


def events_of(line: Json) -> list[Any]:
    """The body as events, each a name and its JSON; a body that is no stream is one event."""
    body = line["body"]
    if isinstance(body, dict):
        body = base64.b64decode(body["base64"]).decode("utf-8", "backslashreplace")
    if ["content-type", "text/event-stream; charset=utf-8"] not in line["headers"]:
        return [as_json_or_text(body)]
    events = []
    for block in re.split(r"\r\n\r\n|\n\n|\r\r", body):
        lines = re.split(r"\r\n|\n|\r", block)
        data = [one[5:].removeprefix(" ") for one in lines if one.startswith("data:")]
        other = [one for one in lines if one and not one.startswith("data:")]
        if data or other:
            events.append([*other, as_json_or_text("\n".join(data))])
    return events


def as_json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def normal(line: Json) -> Json:
    """The line with JSON in the place of its text."""
    requests = [{**one, "body": as_json_or_text(str(one["body"]))} for one in line["upstream"]]
    return {**line, "body": events_of(line), "upstream": requests}


def difference(old: Json, new: Json) -> Difference:
    """The first difference, in the order in which a reader would notice."""
    number = old["number"]
    for name in ("status", "ended", "headers"):
        if old[name] != new[name]:
            example = f"old {old[name]}\nnew {new[name]}"
            if name == "status":
                example += f"\nold {old['body']!s:.300}\nnew {new['body']!s:.300}"
            return Difference(number, name, example)
    before, after = normal(old), normal(new)
    pairs = itertools.zip_longest(before["body"], after["body"])
    for at, (one, other) in enumerate(pairs):
        if one != other:
            place = f"event {at} of {len(before['body'])} and {len(after['body'])}"
            return Difference(number, "events", f"{place}\n{side_by_side(one, other)}")
    requests = itertools.zip_longest(before["upstream"], after["upstream"])
    for at, (one, other) in enumerate(requests):
        if one != other:
            place = f"upstream request {at}"
            return Difference(number, "requests", f"{place}\n{side_by_side(one, other)}")
    raise AssertionError(f"answer {number} differs in nothing")


def side_by_side(one: Any, other: Any) -> str:
    """Both as JSON, from shortly before they part."""
    texts = [compact(value) if value is not None else "(nothing)" for value in (one, other)]
    parts = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
    start = max(0, parts - 120)
    dots = "..." if start else ""
    return "\n".join(
        f"{name} {dots}{text[start : start + 400]}"
        for name, text in zip(("old", "new"), texts, strict=True)
    )


def show_kind(kind: str, found: list[Difference], total: int, examples: int) -> None:
    what = Counter(one.what for one in found)
    told = ", ".join(f"{name} {count}" for name, count in what.most_common())
    print(f"\n{kind}: {len(found)} of {total} differ ({told})")
    for name in what:
        for one in [one for one in found if one.what == name][:examples]:
            print(f"  answer {one.number}, {name}:")
            print("    " + one.example.replace("\n", "\n    "))


def compare_metrics(old: Json, new: Json) -> bool:
    same = True
    for server in old:
        samples = {**old[server], **new[server]}
        for name in sorted(samples):
            values = old[server].get(name), new[server].get(name)
            if values[0] != values[1]:
                same = False
                print(f"\nmetrics of {server!r}: {name} is {values[0]} and {values[1]}")
    print("\nthe counters are equal" if same else "\nthe counters differ")
    return same


# show


def show(number: int, options: argparse.Namespace, texts: Texts) -> None:
    cases = plan(options.share, options.only)
    case = make_case(number, *cases[number], options.seed, texts)
    print(f"{case.kind}, {case.api}, server {case.server!r}, streamed: {case.stream}")
    print(f"{case.method} {case.target} {case.headers}\n{case.body.decode('utf-8', 'replace')}")
    for at, play in enumerate(case.plays):
        print(f"\n--- the upstream's answer {at}, which ends with {play.ending!r}")
        for pause, data in play.writes:
            print(f"--- after {pause:g} s, {len(data)} bytes")
            print(data.decode("utf-8", "backslashreplace"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--data", type=Path, help="folder of real texts (default: ../shared/data)")
    shared.add_argument("--seed", type=int, default=0, help="of the answers (default: 0)")
    shared.add_argument("--share", type=float, default=1.0, help="of the answers of each kind")
    shared.add_argument("--only", action="append", default=[], metavar="KIND", choices=KINDS)
    one = commands.add_parser("record", parents=[shared], help="play all answers through a build")
    one.add_argument("--tree", type=Path, default=ROOT, help="whose server to run (default: this)")
    one.add_argument("--pythonpath", help="where the tree alone does not say it (TREE:TREE/server)")
    one.add_argument("--python", default=sys.executable, help="the interpreter (default: this one)")
    one.add_argument("--concurrency", type=int, default=8, help="requests at once (default: 8)")
    one.add_argument("--into", type=Path, required=True, metavar="FILE")
    two = commands.add_parser("compare", help="say what differs between two records")
    two.add_argument("old", type=Path)
    two.add_argument("new", type=Path)
    two.add_argument("--examples", type=int, default=1, help="of each kind of difference")
    three = commands.add_parser("show", parents=[shared], help="print a request and its answers")
    three.add_argument("number", type=int)
    commands.add_parser("kinds", help="list the kinds and their counts")
    options = parser.parse_args()
    if options.command == "record":
        options.tree = options.tree.resolve()
    if options.command == "compare":
        sys.exit(compare(options.old, options.new, options.examples))
    if options.command == "kinds":
        for name, kind in KINDS.items():
            print(f"{kind.count:5} {name} ({', '.join(kind.apis)})")
        print(f"{sum(kind.count for kind in KINDS.values()):5} in all")
        return
    default = ROOT.parent / "shared" / "data"
    texts = Texts(options.data or (default if default.is_dir() else None))
    if options.command == "show":
        show(options.number, options, texts)
    else:
        asyncio.run(record(options, texts))


if __name__ == "__main__":
    main()
