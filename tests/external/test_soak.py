"""The local engine at capacity for SOAK_SECONDS (600), with disconnects, bad requests and forced
faults.

Each request ends in a complete response or an error, and no memory is kept. `pytest -s` shows
progress.
"""

import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.demo_server import clean_environment, free_port

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
ROUNDS = int(os.environ.get("SOAK_ROUNDS", "1000"))
PLACES = 16
CLIENTS = 24  # at least one always waits
PATIENCE = 60.0  # seconds without data, after which a request counts as hanging
SECONDS_BETWEEN_FAULTS = 15.0

FEW_TOKENS = 1536
# `dedup serve`; SIGUSR1 makes the model's next step fail, SIGUSR2 reports what the server holds.
SERVER = """
import gc, json, os, signal, sys, threading
from collections import Counter
from dedup_server.engines.local.batch_engine import BatchEngine
from dedup_server.engines.local.engine import LocalEngine

engines, armed = [], []
load = LocalEngine.load

def load_and_patch(engine):
    load(engine)
    engines.append(engine)
    forward = engine.loaded.model.forward

    def forward_or_fail(*given, **more):
        if armed:
            armed.clear()
            raise RuntimeError("a forced fault")
        return forward(*given, **more)

    engine.loaded.model.forward = forward_or_fail

def report(*_):
    gc.collect()
    names = Counter(type(each).__name__ for each in gc.get_objects())
    decoder = engines[0].loaded.decoder
    report = {"objects": sum(names.values()), "tasks": names["Task"] + names["_asyncio.Task"]}
    kinds = ("Request", "Choice", "Completion", "Exchange", "Handle", "TimerHandle")
    report |= {each: names[each] for each in kinds}
    report |= {"threads": threading.active_count(), "sequences": len(decoder._sequences)}
    report |= {"active": decoder.engine.num_active}
    report |= {"allocated": decoder.engine.key_values.num_allocated}
    print("REPORT " + json.dumps(report), file=sys.stderr, flush=True)

LocalEngine.load = load_and_patch
if num_tokens := int(os.environ["SOAK_TOKENS"]):
    BatchEngine._size = lambda engine, context: (min(context, num_tokens), num_tokens)
signal.signal(signal.SIGUSR1, lambda *_: armed.append(1))
signal.signal(signal.SIGUSR2, report)
from dedup.cli import main
sys.argv[0] = "dedup"
main()
"""

ENGLISH = [
    "She had not slept since the night when her brother disappeared.",
    "The river rose in the night, and by morning the bridge was gone."
    " Nobody in the village had heard it fall.",
    "My dear Watson, you see everything; you fail, however, to reason from what you see.",
]
CHINESE = [
    "夜深了，屋里只点着一盏灯。",
    "春天到了，院子里的老槐树又开花了。",
    "他走进院子的时候，天已经黑透了，只有灶房里还亮着。",
]
LONG_TEXT = "\n\n".join([*ENGLISH, *CHINESE] * 12)
# Each is reproducible.
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1, "seed": 1},
    {"temperature": 0.7, "top_p": 0.9, "seed": 2, "n": 2},
    {"temperature": 1.2, "top_k": 20, "repetition_penalty": 1.3, "seed": 3},
    {"temperature": 0.9, "min_p": 0.05, "no_repeat_ngram_size": 3, "seed": 4},
    {"temperature": 0.5, "dry_multiplier": 0.8, "lz_penalty": 0.2, "seed": 5},
    {
        "temperature": 0,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "logit_bias": {"100": -5},
    },
    {
        "temperature": 1,
        "dynatemp_range": 0.3,
        "repetition_temperature": 1.0,
        "seed": 6,
        "stop": ["。", ". "],
    },
]
BAD: list[tuple[dict[str, Any], int]] = [
    ({"temperature": 9}, 400),
    ({"max_tokens": 0}, 400),
    ({"mirostat": 2}, 400),
    ({"model": "gpt-x"}, 404),
    ({"logit_bias": {"999999": 1}}, 400),
    ({"prompt": [5] * 5000}, 400),
    ({"prompt": [-1]}, 400),
    ({"prompt": LONG_TEXT, "long_input": {"overlap": 5000}}, 400),
]
ENDLESS = {
    "max_tokens": 900,
    "min_tokens": 900,
    "temperature": 1,
    "stream": True,
    "repetition": {"policy": "off"},
}


@dataclass
class Server:
    port: int
    process: "subprocess.Popen[bytes]"
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    @property
    def megabytes(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    @property
    def num_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def report(self) -> dict[str, float]:
        """Return what the server holds."""
        before = self.log.count("REPORT ")
        self.process.send_signal(signal.SIGUSR2)
        for _ in range(200):
            self.get("/health/live")
            if self.log.count("REPORT ") > before:
                report: dict[str, float] = json.loads(
                    self.log.rpartition("REPORT ")[2].partition("\n")[0]
                )
                return report
            time.sleep(0.05)
        raise TimeoutError("it does not report")

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        samples = (
            line.rsplit(" ", 1)
            for line in self.get("/metrics")[1].splitlines()
            if not line.startswith("#")
        )
        return {name: float(value) for name, value in samples}

    @property
    def in_progress(self) -> float:
        return sum(
            value
            for name, value in self.metrics().items()
            if name.startswith("dedup_streams_in_progress")
        )

    def outcome(self, outcome: str) -> float:
        wanted = f'outcome="{outcome}"'
        return sum(
            value
            for name, value in self.metrics().items()
            if name.startswith("dedup_requests_total") and wanted in name
        )

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)


@contextmanager
def serving(num_tokens: int = 0) -> Iterator[Server]:
    """Run the server. num_tokens: memory for keys and values; 0 is as much as requests can need."""
    port = free_port()
    command = [
        sys.executable,
        "-c",
        SERVER,
        "serve",
        "--port",
        str(port),
        "--max-concurrent",
        str(PLACES),
        "--device",
        "cpu",
    ]
    environment = {**clean_environment(), "OMP_NUM_THREADS": "1", "SOAK_TOKENS": str(num_tokens)}
    with tempfile.TemporaryDirectory() as folder:
        log_path = Path(folder) / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        server = Server(port, process, log_path)
        try:
            for _ in range(600):
                if "dedup listens" in server.log or process.poll() is not None:
                    break
                time.sleep(0.1)
            assert process.poll() is None, server.log
            yield server
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()


def request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: soak.test\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def completion(fields: dict[str, Any]) -> bytes:
    return request("/v1/completions", json.dumps(fields).encode())


class DishonestResponseError(Exception):
    """A response that is neither complete nor an error."""


def read_response(
    connection: socket.socket, pause: float = 0, num_choices: int = 1
) -> tuple[int, dict[int, str], str | None]:
    """Return status, text by choice, and error code of a response. Raise DishonestResponseError."""
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        body = b""
        while part := response.read1(4096):
            body += part
            time.sleep(pause)
        if response.length:
            raise DishonestResponseError(
                f"{response.length} bytes are missing behind {body[-200:]!r}"
            )
    finally:
        response.close()
    try:
        if not response.headers["Content-Type"].startswith("text/event-stream"):
            answer = json.loads(body)
            if "error" in answer:
                return response.status, {}, answer["error"]["code"] or answer["error"]["type"]
            return _full(response.status, [answer])
        events = [event.removeprefix("data: ") for event in body.decode().split("\n\n") if event]
        if events[-1] == "[DONE]":
            return _full(response.status, [json.loads(event) for event in events[:-1]])
        chunks = [json.loads(event) for event in events]
        ended = [
            choice
            for chunk in chunks
            for choice in chunk.get("choices", [])
            if choice["finish_reason"]
        ]
        if len(ended) >= num_choices:
            raise DishonestResponseError("it ended as if all were well, and an error came")
        return response.status, {}, chunks[-1]["error"]["code"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DishonestResponseError(
            f"{type(error).__name__}: {error} in {response.status} {body[-300:]!r}"
        ) from None


def _full(status: int, chunks: list[dict[str, Any]]) -> tuple[int, dict[int, str], None]:
    texts: dict[int, str] = {}
    ended = set()
    for chunk in chunks:
        if "error" in chunk:
            raise DishonestResponseError(f"an error in the midst: {chunk}")
        for choice in chunk["choices"]:
            said = (
                choice
                if "text" in choice
                else choice["delta"]
                if "delta" in choice
                else choice["message"]
            )
            text = said.get("text") or said.get("content") or ""
            texts[choice["index"]] = texts.get(choice["index"], "") + text
            if choice["finish_reason"]:
                ended.add(choice["index"])
    if status != 200 or not texts or ended != set(texts):
        raise DishonestResponseError(f"{status}: of choices {sorted(texts)} {sorted(ended)} ended")
    return status, texts, None


@dataclass
class Soak:
    """Clients that send requests until `stop`, and the outcomes."""

    server: Server
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    _answers: dict[str, dict[int, str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, seed: int) -> None:
        chance = random.Random(seed)
        kinds = {self._whole: 50, self._leaves: 30, self._bad: 12, self._slow: 4, self._garbage: 4}
        while not self.stop.is_set():
            kind = chance.choices(list(kinds), list(kinds.values()))[0]
            try:
                outcome = kind(chance)
            except (DishonestResponseError, OSError, http.client.HTTPException) as error:
                outcome = "wrong"
                with self._lock:
                    self.wrong.append(f"{kind.__name__}: {type(error).__name__}: {error}")
            with self._lock:
                self.outcomes[outcome] += 1

    def _fields(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        """Return a path and a request that is reproducible, or, one in eight, samples without a
        seed.
        """
        number = chance.randrange(len(SETTINGS))
        prompt = chance.choice(ENGLISH + CHINESE)
        fields = {
            **SETTINGS[number],
            "max_tokens": (20, 60, 150)[number % 3],
            "stream": chance.random() < 0.7,
        }
        fields["repetition"] = {"policy": chance.choice(["off", "balanced", "strict"])}
        if chance.random() < 0.125:
            fields.pop("seed", None)
        special = chance.random()
        if special < 0.05:
            return "/v1/completions", {**fields, "prompt": LONG_TEXT, "truncate": True}
        if special < 0.08:
            fields.pop("n", None)
            return "/v1/completions", {
                **fields,
                "prompt": LONG_TEXT,
                "max_tokens": 30,
                "long_input": {"overlap": 20},
            }
        if special < 0.5:
            return "/v1/completions", {**fields, "prompt": prompt}
        return "/v1/chat/completions", {**fields, "messages": [{"role": "user", "content": prompt}]}

    def _whole(self, chance: random.Random, pause: float = 0) -> str:
        path, fields = self._fields(chance)
        with self.server.connect() as connection:
            connection.sendall(request(path, json.dumps(fields).encode()))
            status, texts, code = read_response(connection, pause, fields.get("n", 1))
        if code is not None:
            if code != "engine_failed" or status not in (200, 500):
                raise DishonestResponseError(f"{status} {code} for {fields}")
            return "engine_failed"
        if fields["temperature"] and "seed" not in fields:
            return "answered"
        key = json.dumps([path, {**fields, "stream": None}])
        with self._lock:
            first = self._answers.setdefault(key, texts)
        if texts != first:
            raise DishonestResponseError(
                f"answered otherwise than before: {texts} instead of {first} for {key}"
            )
        return "answered"

    def _slow(self, chance: random.Random) -> str:
        return self._whole(chance, pause=0.02)

    def _leaves(self, chance: random.Random) -> str:
        path, fields = self._fields(chance)
        with self.server.connect() as connection:
            connection.sendall(
                request(path, json.dumps({**fields, "max_tokens": 400, "min_tokens": 400}).encode())
            )
            if chance.random() < 0.4:  # before any data
                time.sleep(chance.random() * 0.1)
            else:
                for _ in range(chance.randrange(1, 20)):
                    if not connection.recv(chance.randrange(1, 4096)):
                        break
            if chance.random() < 0.3:
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                )  # with a reset
        return "left"

    def _bad(self, chance: random.Random) -> str:
        changes, expected = chance.choice(BAD)
        with self.server.connect() as connection:
            stream = chance.random() < 0.5
            connection.sendall(
                completion({"prompt": ENGLISH[0], "max_tokens": 5, "stream": stream, **changes})
            )
            status, _, code = read_response(connection)
        if status != expected or code is None:
            raise DishonestResponseError(f"{status} {code} for {changes}")
        return "refused"

    def _garbage(self, chance: random.Random) -> str:
        body = chance.choice(
            [b"", b"{", b"[]", b"null", b'{"prompt": "\xff"}', b"[" * 5000, chance.randbytes(200)]
        )
        sent = chance.choice(
            [
                request("/v1/completions", body),
                chance.randbytes(300),
                request("/v1/completions", body)[:-1],
            ]
        )
        with self.server.connect() as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            with suppress(ConnectionError):
                while part := connection.recv(65536):
                    received += part
        if received and not received.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
            raise DishonestResponseError(f"{received[:200]!r} for {sent[:200]!r}")
        return "refused"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def settle(server: Server) -> float:
    """Return the seconds until nothing is in progress."""
    began = time.monotonic()
    while server.in_progress:
        assert time.monotonic() - began < 1, "an answer is in progress that nobody reads"
        time.sleep(0.02)
    return time.monotonic() - began


def idle(server: Server) -> dict[str, float]:
    """Return what the server holds after all clients have disconnected."""
    settle(server)
    for _ in range(20):
        report = server.report()
        if (report["sequences"], report["active"], report["allocated"]) == (0, 0, 0):
            break
        time.sleep(0.05)
    return report


def require_all_free(server: Server, places: int = PLACES) -> None:
    """Require that all places can be used together, and that nothing is held afterwards."""
    with ExitStack() as readers:
        connections = [readers.enter_context(server.connect()) for _ in range(places)]
        for connection in connections:
            connection.sendall(completion({**ENDLESS, "prompt": CHINESE[0]}))
        for connection in connections:
            received = b""
            while b'"text"' not in received:
                received += connection.recv(4096)
        assert server.in_progress == places
    report = idle(server)
    assert (report["sequences"], report["active"], report["allocated"]) == (0, 0, 0)


def show(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def test_at_capacity_every_request_ends_and_memory_is_flat(
    server: Server,
) -> None:
    measured = run_soak(server, SECONDS)

    def around(share: float) -> float:
        return statistics.median(
            size for at, size in measured if abs(at - share * SECONDS) <= 0.05 * SECONDS
        )

    quarter, end = around(0.25), around(0.95)
    show(f"{quarter:.1f} MB at a quarter, {end:.1f} MB at the end")
    assert end - quarter < 16, "memory grows"


def test_with_little_memory_every_request_ends() -> None:
    with serving(FEW_TOKENS) as server:
        run_soak(
            server, SECONDS / 5, places=1, forces_faults=False
        )  # a fault would hide a standstill


def run_soak(
    server: Server, seconds: float, places: int = PLACES, forces_faults: bool = True
) -> list[tuple[float, float]]:
    """Return times and the server's megabytes. places: number of streams that must be able to run
    together.
    """
    soak = Soak(server)
    clients = [threading.Thread(target=soak.client, args=(seed,)) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    began = time.monotonic()
    measured: list[tuple[float, float]] = []  # seconds, megabytes
    faults, shown, peak = 0, 0.0, 0.0
    try:
        while (now := time.monotonic() - began) < seconds:
            time.sleep(0.5)
            assert server.process.poll() is None, server.log[-3000:]
            measured.append((now, server.megabytes))
            peak = max(peak, server.in_progress)
            if forces_faults and now > (faults + 0.5) * min(SECONDS_BETWEEN_FAULTS, seconds / 4):
                server.process.send_signal(signal.SIGUSR1)
                faults += 1
            if now - shown > 10:
                shown = now
                outcomes = " ".join(
                    f"{name} {number}" for name, number in sorted(soak.outcomes.items())
                )
                show(
                    f"{now:.0f} s: {server.megabytes:.1f} MB, {server.num_files} files,"
                    f" {faults} faults; {outcomes}"
                )
    finally:
        soak.stop.set()
        for client in clients:
            client.join(2 * PATIENCE)
    assert not any(client.is_alive() for client in clients), "a request hangs"
    assert not soak.wrong, f"{len(soak.wrong)}: " + "\n".join(soak.wrong[:10])
    settle(server)
    require_all_free(server, places)

    total = sum(soak.outcomes.values())
    show(f"{total} requests in {seconds:.0f} s, {faults} faults: {dict(soak.outcomes)}")
    assert peak >= PLACES, "not at capacity"
    assert min(soak.outcomes[kind] for kind in ("answered", "left", "refused")) > 0
    assert bool(soak.outcomes["engine_failed"]) == forces_faults
    log = server.log
    assert log.count("the engine starts anew") == faults
    assert log.count("Traceback") == faults, log[log.index("Traceback") :][:3000]
    return measured


def test_a_thousand_rounds_of_disconnects_leave_nothing_behind(server: Server) -> None:
    asked = completion(
        {"prompt": CHINESE[1], "max_tokens": 20, "min_tokens": 20, "seed": 7, "stream": True}
    )
    with server.connect() as connection:
        connection.sendall(asked)
        alone = read_response(connection)
    assert alone[1][0]
    held: list[tuple[dict[str, float], float, int]] = []
    for number in range(ROUNDS):
        with ExitStack() as readers:
            stays = readers.enter_context(server.connect())
            leave = [readers.enter_context(server.connect()) for _ in range(PLACES - 1)]
            stays.sendall(asked)
            for index, connection in enumerate(leave):
                connection.sendall(
                    completion({**ENDLESS, "prompt": (ENGLISH + CHINESE)[index % 6], "seed": index})
                )
            for index, connection in enumerate(leave):
                if (index + number) % 3:  # the others disconnect before any data
                    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
                connection.close()
            assert read_response(stays) == alone
        settle(server)
        if number % (ROUNDS // 4) == ROUNDS // 4 - 1:
            held.append((idle(server), server.megabytes, server.num_files))
            show(f"{number + 1} rounds: {held[-1][1]:.1f} MB, {held[-1][2]} files, {held[-1][0]}")
    (first, first_size, first_files), *_, (last, last_size, last_files) = held
    assert last_size - first_size < 8, "memory grows"
    assert last_files <= first_files + 1
    assert last.pop("objects") - first.pop("objects") < 1000
    assert all(last[name] <= first[name] + 1 for name in last), (
        first,
        last,
    )  # the request for the report may be there
    require_all_free(server)
    assert server.outcome("client_gone") == ROUNDS * (PLACES - 1) + PLACES
    assert server.outcome("ok") + server.outcome("cut") == ROUNDS + 1
    assert "Traceback" not in server.log
