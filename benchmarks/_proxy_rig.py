"""What the proxy benchmarks share: a mock upstream, a load client, and processes whose CPU time and memory /proc tells (Linux).

Upstream and client speak just enough HTTP/1.1 to cost little. A request's text says what is answered, so it passes through any proxy:
`n=100 every=20 first=5` is 100 words of prose, one a chunk, every 20 ms, the first after 5 ms (every=0: as fast as they are taken); with
`words=4` four a chunk;
`replay=7 every=1` is the 7th transcript. The client reads every answer to its end and checks all of it.
"""

import asyncio
import contextlib
import functools
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import uvloop

Cores = set[int]

_PIECE = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|\s?\w{1,5}|\s*[^\w\s]|\s+"
)  # about as long as tokens are
_SPEC = re.compile(rb"\b(n|every|first|replay|words)=([\d.]+)")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.I)
_TEXT = re.compile(rb'"content": ?"[^"]')
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_HEAD = {
    "id": "chatcmpl-0",
    "object": "chat.completion.chunk",
    "created": 1700000000,
    "model": "mock",
}
_decode = msgspec.json.Decoder().decode


def pieces_of(text: str) -> list[str]:
    return _PIECE.findall(text)


def prose(num_words: int) -> list[str]:
    """Sentences of made-up words in which nothing repeats, so that a filter has nothing to remove; the same on every run."""
    rng = random.Random(0)
    syllables = [
        first + vowel + last
        for first in "bdfghklmnprstvw"
        for vowel in "aeiou"
        for last in ("", "n", "r", "s", "t")
    ]
    vocabulary = ["".join(rng.choices(syllables, k=1 + rank // 250)) for rank in range(1000)]
    weights = [1 / (rank + 20) for rank in range(1000)]
    words: list[str] = []
    while len(words) < num_words:
        sentence = rng.choices(vocabulary, weights, k=rng.randint(6, 18))
        words += [sentence[0].capitalize(), *sentence[1:-1], sentence[-1] + "."]
    return [word if place == 0 else " " + word for place, word in enumerate(words[:num_words])]


PROSE = prose(5000)


# The upstream


def _framed(data: str) -> bytes:
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _framed(
        json.dumps({**_HEAD, "choices": [choice]}, separators=(",", ":"), ensure_ascii=False)
    )


@functools.cache
def _text_chunk(piece: str) -> bytes:
    return _chunk({"content": piece})


_BEGIN = _STREAM + _chunk({"role": "assistant", "content": ""})
_FINISH, _DONE = _chunk({}, "stop"), _framed("[DONE]") + b"0\r\n\r\n"


def _json(body: Any) -> bytes:
    encoded = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(encoded),
        encoded,
    )


@functools.cache
def _whole(num_words: int) -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(PROSE[:num_words])},
        "finish_reason": "stop",
    }
    answer = {**_HEAD, "object": "chat.completion", "choices": [choice]}
    return _json({**answer, "usage": _usage(num_words)})


def _usage(num_words: int) -> dict[str, int]:
    return {"prompt_tokens": 9, "completion_tokens": num_words, "total_tokens": num_words + 9}


@functools.cache
def _end(num_words: int, with_usage: bool) -> bytes:
    usage = _framed(json.dumps({**_HEAD, "choices": [], "usage": _usage(num_words)}))
    return _FINISH + (usage if with_usage else b"") + _DONE


class Upstream(asyncio.Protocol):
    """GET /stats: how many pieces of each transcript were sent before the other side hung up, and how late (p99 of all, in ms)."""

    transcripts: ClassVar[list[list[str]]] = []
    sent: ClassVar[dict[int, int]] = {}
    lags: ClassVar[list[float]] = []
    active: ClassVar[int] = 0

    def connection_made(self, transport: Any) -> None:
        self.transport, self.received, self.writable, self.busy = transport, b"", True, False
        self.timer: asyncio.Handle | None = None

    def connection_lost(self, error: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()
        Upstream.active -= self.busy
        self.busy = False

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self.busy and self.timer is None:
            self.step()

    def data_received(self, data: bytes) -> None:
        self.received += data
        head_end = self.received.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(self.received)
        if head_end < 4 or len(self.received) < head_end + (int(length[1]) if length else 0):
            return
        request, self.received = self.received, b""
        if request.startswith(b"GET /stats"):
            lags = sorted(Upstream.lags)
            late = round(lags[len(lags) * 99 // 100] * 1e3, 2) if lags else 0
            self.transport.write(
                _json({"active": Upstream.active, "sent": Upstream.sent, "lag_p99_ms": late})
            )
            if not Upstream.active:
                Upstream.sent, Upstream.lags = {}, []
        elif request.startswith(b"GET"):
            self.transport.write(
                _json({"object": "list", "data": [{"id": "mock", "object": "model"}]})
            )
        else:
            self.answer(request)

    def answer(self, request: bytes) -> None:
        spec = {name: float(number) for name, number in _SPEC.findall(request)}
        loop = asyncio.get_running_loop()
        first = spec.get(b"first", 0) / 1e3
        if b'"stream":true' not in request.replace(b" ", b""):
            loop.call_later(first, self.transport.write, _whole(int(spec[b"n"])))
            return
        self.line = int(spec.get(b"replay", -1))
        words = PROSE[: int(spec[b"n"])]
        size = int(spec.get(b"words", 1))
        spoken = ["".join(words[at : at + size]) for at in range(0, len(words), size)]
        self.pieces = spoken if self.line < 0 else self.transcripts[self.line]
        self.every, self.at, self.busy = spec[b"every"] / 1e3, 0, True
        self.with_usage = b'"include_usage":true' in request.replace(b" ", b"")
        Upstream.active += 1
        self.timer = loop.call_later(first, self.begin)

    def begin(self) -> None:
        self.begun, self.clock = asyncio.get_running_loop().time(), time.perf_counter()
        self.transport.write(_BEGIN)
        self.step()

    def step(self) -> None:
        self.timer = None
        if self.at == len(self.pieces):
            self.busy = False
            Upstream.active -= 1
            self.transport.write(_end(len(self.pieces), self.with_usage))
            return
        if self.line >= 0:
            Upstream.lags.append(time.perf_counter() - self.clock - self.at * self.every)
            Upstream.sent[self.line] = self.at + 1
        self.transport.write(_text_chunk(self.pieces[self.at]))
        self.at += 1
        loop = asyncio.get_running_loop()
        if self.every:
            self.timer = loop.call_at(
                self.begun + self.at * self.every, self.step
            )  # late once is not late ever after
        elif self.writable:
            self.timer = loop.call_soon(self.step)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        Upstream, "127.0.0.1", port, backlog=4096, reuse_port=True
    )
    await server.serve_forever()


# The client


@dataclass
class Answer:
    """What one request got. problem: why it is no good, or empty. choices: the last chunk of each, that has the finish_reason."""

    text: str = ""
    num_chunks: int = 0
    ttft: float = 0.0
    problem: str = ""
    choices: dict[int, dict[str, Any]] = field(default_factory=dict)


class Client(asyncio.Protocol):
    """One keep-alive connection."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.stray = transport, False
        self.done: asyncio.Future[None] | None = None
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def ask(self, request: bytes, *, stream: bool = True) -> Answer:
        self.received, self.length, self.ttft, self.searched = bytearray(), -1, 0.0, 0
        done = self.done = asyncio.get_running_loop().create_future()
        self.began = time.perf_counter()
        self.transport.write(request)
        await done
        self.done = None
        answer = read_stream(bytes(self.received)) if stream else read_whole(bytes(self.received))
        answer.ttft = self.ttft
        return answer

    def data_received(self, data: bytes) -> None:
        if self.done is None or self.done.done():
            self.stray = True  # something came after the end
            return
        self.received += data
        if not self.ttft:
            if _TEXT.search(self.received, self.searched):
                self.ttft = time.perf_counter() - self.began
            self.searched = max(0, len(self.received) - 16)
        if self.length < 0:
            if (head_end := self.received.find(b"\r\n\r\n") + 4) < 4:
                return
            length = _LENGTH.search(self.received, 0, head_end)
            self.length = head_end + int(length[1]) if length else 0
        if (
            len(self.received) >= self.length
            if self.length
            else self.received.endswith(b"0\r\n\r\n")
        ):
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self.done and not self.done.done():
            self.done.set_exception(
                ConnectionError(f"the connection broke in mid-answer: {error or 'closed'}")
            )


def request_bytes(port: int, spec: str, *, stream: bool = True) -> bytes:
    messages = [{"role": "user", "content": f"Tell me something new, please. {spec} " + "x" * 200}]
    body = json.dumps({"model": "mock", "messages": messages, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _body(received: bytes) -> bytes:
    """Raises `ValueError` for anything but a well-formed 200."""
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(
            f"answered {head[:30].decode('latin-1')!r}: {body[:200].decode('utf-8', 'replace')}"
        )
    if b"chunked" not in head.lower():
        return body
    parts: list[bytes] = []
    at = 0
    while True:
        line_end = body.index(b"\r\n", at)
        size = int(body[at:line_end], 16)
        at = line_end + 2 + size
        if body[at : at + 2] != b"\r\n":
            raise ValueError("the chunked coding is broken")
        if size == 0:
            return b"".join(parts)
        parts.append(body[line_end + 2 : at])
        at += 2


def read_whole(received: bytes) -> Answer:
    try:
        return Answer(_decode(_body(received))["choices"][0]["message"]["content"], 1)
    except (ValueError, LookupError, msgspec.MsgspecError) as error:
        return Answer(problem=str(error))


def read_stream(received: bytes) -> Answer:
    """Whether it is one well-formed answer: the role first, one finish chunk a choice, no text after it, [DONE], and nothing more."""
    answer = Answer()
    try:
        *events, done, rest = _body(received).split(b"\n\n")
        if done != b"data: [DONE]" or rest:
            raise ValueError(f"ends in {(done + rest)[-100:].decode('utf-8', 'replace')!r}")
        texts: list[str] = []
        for event in events:
            chunk = _decode(event.removeprefix(b"data: "))
            if "error" in chunk or chunk["object"] != "chat.completion.chunk":
                raise ValueError(f"not a chunk: {event[:200].decode('utf-8', 'replace')}")
            for choice in chunk["choices"]:
                if choice["index"] in answer.choices:
                    raise ValueError("a choice goes on after its finish chunk")
                if not answer.num_chunks and choice["delta"].get("role") != "assistant":
                    raise ValueError("the first chunk has no role")
                texts.append(choice["delta"].get("content") or "")
                if choice["finish_reason"]:
                    answer.choices[choice["index"]] = choice
            answer.num_chunks += 1
        answer.text = "".join(texts)
        if list(answer.choices) != [0]:
            raise ValueError("no finish chunk")
    except (ValueError, LookupError, msgspec.MsgspecError) as error:
        answer.problem = str(error) or type(error).__name__
    return answer


@dataclass
class Load:
    """`requests` in all, over `streams` connections that begin within `ramp_seconds`; n, every, first as in the request's text."""

    streams: int
    requests: int
    n: int
    every: float = 0
    first: float = 0
    stream: bool = True
    ramp_seconds: float = 0.0
    words: int = 1  # of a chunk

    @property
    def units(self) -> int:
        """Chunks (not streamed: answers) a request makes the upstream send, [DONE] not counted."""
        return -(-self.n // self.words) + 2 if self.stream else 1


async def _load(port: int, load: Load, timeout_seconds: float = 180) -> dict[str, Any]:
    request = request_bytes(
        port,
        f"n={load.n} every={load.every} first={load.first} words={load.words}",
        stream=load.stream,
    )
    expected = "".join(PROSE[: load.n])
    left, active, peak = load.requests, 0, 0
    problems: list[str] = []
    ttfts: list[float] = []

    async def use_connection(place: int) -> None:
        nonlocal left, active, peak
        await asyncio.sleep(place * load.ramp_seconds / load.streams)
        client: Client | None = None
        while left > 0:
            left -= 1
            try:
                if client is None or client.transport.is_closing():
                    _, client = await asyncio.get_running_loop().create_connection(
                        Client, "127.0.0.1", port
                    )
                active += 1
                peak = max(peak, active)
                answer = await client.ask(request, stream=load.stream)
                if not answer.problem and answer.text != expected:
                    answer.problem = (
                        f"{len(answer.text)} characters came instead of {len(expected)}, or others"
                    )
                problem = "bytes came after the end" if client.stray else answer.problem
                ttfts.append(answer.ttft)
            except OSError as error:
                problem = str(error)
            active -= 1
            if problem:
                problems.append(problem)
        if client:
            client.transport.close()

    began = time.perf_counter()
    tasks = [
        asyncio.create_task(use_connection(place))
        for place in range(min(load.streams, load.requests))
    ]
    _, hanging = await asyncio.wait(tasks, timeout=timeout_seconds)
    problems += ["no end within the time allowed"] * (len(hanging) + left)
    wall = time.perf_counter() - began
    return {
        "failed": len(problems),
        "problem": next(iter(problems), ""),
        "wall": wall,
        "ttfts": ttfts,
        "peak": peak,
    }


# Processes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        return json.loads(response.read())


@contextlib.contextmanager
def running(
    command: list[str], port: int, ready_path: str, cores: Cores, seconds: float = 30
) -> Iterator[int]:
    """The process, once it answers; its id. Raises `RuntimeError` with what it printed if it does not."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DEDUP_")}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=env,
            cwd=Path(__file__).resolve().parents[1],
            start_new_session=True,
        )
        try:
            os.sched_setaffinity(process.pid, cores)
            for _ in range(int(10 * seconds)):
                with contextlib.suppress(OSError, ValueError):
                    get(port, ready_path)
                    break
                if process.poll() is not None:
                    break
                time.sleep(0.1)
            else:
                process.kill()
                process.wait()
            if process.poll() is not None:
                log.seek(0)
                printed = log.read()[-600:].decode("utf-8", "replace").strip()
                raise RuntimeError(f"`{' '.join(command)}` does not serve: {printed}")
            yield process.pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(
                    process.pid, signal.SIGTERM
                )  # its own group: started in a session of its own
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextlib.contextmanager
def upstream(
    cores: Cores, transcripts: Path | None = None, num_processes: int = 1
) -> Iterator[int]:
    """The mock upstream; its port."""
    port = free_port()
    command = [
        sys.executable,
        __file__,
        "upstream",
        str(port),
        *([str(transcripts)] if transcripts else []),
    ]
    with contextlib.ExitStack() as stack:
        for _ in range(num_processes):
            stack.enter_context(running(command, port, "/v1/models", cores))
        yield port


def run_load(port: int, load: Load, cores: Cores, num_processes: int = 1) -> dict[str, Any]:
    """The load, shared out to client processes; what they saw together."""
    shares = range(num_processes)
    part = Load(
        **{
            **asdict(load),
            "streams": load.streams // num_processes,
            "requests": load.requests // num_processes,
        }
    )
    command = [sys.executable, __file__, "load", str(port), json.dumps(asdict(part))]
    with contextlib.ExitStack() as stack:
        said = [
            stack.enter_context(tempfile.TemporaryFile()) for _ in shares
        ]  # a pipe may be too small
        clients = [subprocess.Popen(command, stdout=file) for file in said]
        for client in clients:
            os.sched_setaffinity(client.pid, cores)
        for client, file in zip(clients, said, strict=True):
            client.wait()
            file.seek(0)
        seen = [json.loads(file.read()) for file in said]
    ttfts = sorted(ttft for each in seen for ttft in each["ttfts"])
    return {
        "failed": sum(each["failed"] for each in seen),
        "problem": next((each["problem"] for each in seen if each["problem"]), ""),
        "rate": part.requests * num_processes * load.units / max(each["wall"] for each in seen),
        "ttft": ttfts[len(ttfts) // 2] * 1e3 if ttfts else 0.0,
        "ttft_p99": ttfts[len(ttfts) * 99 // 100] * 1e3 if ttfts else 0.0,
        "peak": sum(each["peak"] for each in seen),
    }


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [
        pid,
        *(
            below
            for child in " ".join(path.read_text() for path in children).split()
            for below in _tree(int(child))
        ),
    ]


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, of the process and those below it, so far; to the nanosecond, unlike `stat`'s ticks of 10 ms."""
    threads = [thread for each in _tree(pid) for thread in Path(f"/proc/{each}/task").iterdir()]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def num_sleeps(pid: int) -> int:
    """Times that the process and those below it have slept so far: each ends in a wake-up."""
    threads = [thread for each in _tree(pid) for thread in Path(f"/proc/{each}/task").iterdir()]
    texts = [(thread / "status").read_text() for thread in threads]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


def memory_mib(pid: int, *, peak: bool = False) -> float:
    """Resident memory of the process and those below it, now or at its highest."""
    name = "VmHWM" if peak else "VmRSS"
    found = [
        re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{each}/status").read_text())
        for each in _tree(pid)
    ]
    return sum(int(match[1]) for match in found if match) / 1024


def workers_of(pid: int, number: int) -> list[int]:
    """The processes that do a server's work: the busiest below the one that watches over them, or that one itself."""
    return sorted(_tree(pid)[1:], key=cpu_seconds, reverse=True)[:number] or [pid]


@contextlib.contextmanager
def limited(pids: list[int], share: float) -> Iterator[None]:
    """Each process gets this share of a core and no more. By control groups: it takes root. Tried with version 1 of them."""
    root, period = Path("/sys/fs/cgroup"), 10_000
    if (root / "cgroup.controllers").exists():
        limits = {"cpu.max": f"{share * period:.0f} {period}"}
    else:
        root, limits = (
            root / "cpu",
            {"cpu.cfs_period_us": str(period), "cpu.cfs_quota_us": f"{share * period:.0f}"},
        )
    groups = [root / f"dedup-benchmark-{pid}" for pid in pids]
    try:
        try:
            for pid, group in zip(pids, groups, strict=True):
                group.mkdir()
                for name, value in limits.items():
                    (group / name).write_text(value)
                (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise RuntimeError(
                f"no share of a core can be given, which takes root and control groups: {error}"
            ) from None
        yield
    finally:
        for pid, group in zip(pids, groups, strict=True):
            if group.exists():
                (root / "cgroup.procs").write_text(str(pid))
                group.rmdir()


def split_cores(num_proxy: int = 1) -> tuple[Cores, Cores]:
    """(cores of the proxy, cores of all else); the same ones where there are too few."""
    if not sys.platform.startswith("linux"):
        sys.exit("this benchmark reads /proc: it needs Linux")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) <= num_proxy:
        return set(cores), set(cores)
    return set(cores[-num_proxy:]), set(cores[:-num_proxy])


def dedup_command(port: int, upstream_port: int, *more: str) -> list[str]:
    target = f"http://127.0.0.1:{upstream_port}/v1"
    return [
        sys.executable,
        "-m",
        "dedup",
        "serve",
        "--upstream",
        target,
        "--port",
        str(port),
        *more,
    ]


def main() -> None:
    role, port, *more = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if role == "load":
        print(json.dumps(uvloop.run(_load(int(port), Load(**json.loads(more[0]))))))
        return
    if more:
        lines = Path(more[0]).read_text(encoding="utf-8").splitlines()
        Upstream.transcripts = [pieces_of(json.loads(line)["text"]) for line in lines]
    uvloop.run(_serve(int(port)))


if __name__ == "__main__":
    main()
