"""Three replicas behind Envoy that are killed, restarted, reloaded and rolled while clients ask.

    make chaos                      # ten minutes
    make chaos MINUTES=2 SEED=7     # shorter; the same order of actions

Every request must end in a full answer or in an error that its client can see: an exception, or an
error event. The requests that the replicas counted must be those that they logged.
"""

import argparse
import asyncio
import json
import random
import re
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai

from tests.external.gateways.gateways import envoy
from tests.external.gateways.replicas import Replica, get, replicas, upstream
from tests.external.gateways.rig import PROSE

_LOOP = "I am going round and round in circles here. "
_TEXTS = ["".join(PROSE[:200]) + " " + _LOOP * 60]
_WORKERS = (1, 1, 2)  # of each replica
_ACTIONS = ("kill", "kill a worker", "restart", "reload", "roll", "kill one, restart another")
_PAUSE_SECONDS = (0.5, 6.0)  # between two actions
_SCRAPE_SECONDS = 0.5


@dataclass(frozen=True)
class Ask:
    """A request: looping or clean, streamed or whole."""

    loops: bool
    stream: bool
    n: int
    every: int

    @property
    def body(self) -> dict[str, Any]:
        spec = f"replay=0 every={self.every // 8}" if self.loops else f"every={self.every}"
        message = {"role": "user", "content": f"n={self.n} {spec} first=5"}
        return {"model": "mock", "messages": [message], "stream": self.stream}

    def judge(self, text: str, finish_reason: str | None, stop_reason: str | None) -> str:
        """Return what came: `full`, or what is wrong with it."""
        if finish_reason is None:
            return f"SILENTLY CUT after {len(text)} characters"
        if self.loops:
            is_cut = stop_reason == "repetition_detected" and text.count(_LOOP.strip()) == 1
            return "full" if is_cut else f"WRONG: {finish_reason} {stop_reason} {text[-80:]!r}"
        expected = "".join(PROSE[: self.n])
        return "full" if text == expected else f"WRONG: {len(text)} characters of {len(expected)}"


async def ask_openai(client: openai.AsyncOpenAI, ask: Ask) -> str:
    try:
        if not ask.stream:
            whole = await client.chat.completions.create(**ask.body)
            choice = whole.choices[0]
            stop_reason = getattr(choice, "stop_reason", None)
            return ask.judge(choice.message.content or "", choice.finish_reason, stop_reason)
        text, finish_reason, stop_reason = "", None, None
        async for chunk in await client.chat.completions.create(**ask.body):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish_reason = choice.finish_reason or finish_reason
                stop_reason = getattr(choice, "stop_reason", None) or stop_reason
        return ask.judge(text, finish_reason, stop_reason)
    except openai.APIStatusError as error:
        return f"status {error.status_code}"
    except openai.APIConnectionError:
        return "connection lost or refused"
    except openai.APIError:
        return "error event"


async def ask_httpx(client: httpx.AsyncClient, ask: Ask) -> str:
    try:
        if not ask.stream:
            response = await client.post("/v1/chat/completions", json=ask.body)
            if response.status_code != 200:
                return f"status {response.status_code}"
            choice = response.json()["choices"][0]
            text = choice["message"]["content"]
            return ask.judge(text, choice["finish_reason"], choice.get("stop_reason"))
        async with client.stream("POST", "/v1/chat/completions", json=ask.body) as response:
            if response.status_code != 200:
                await response.aread()
                return f"status {response.status_code}"
            return await _read_stream(response.aiter_lines(), ask)
    except httpx.ConnectError:
        return "connection refused"
    except httpx.TransportError as error:
        return f"connection lost: {type(error).__name__}"


async def _read_stream(lines: AsyncIterator[str], ask: Ask) -> str:
    text, finish_reason, stop_reason, is_done = "", None, None, False
    async for line in lines:
        data = line.removeprefix("data: ")
        if data == line:
            continue
        if data == "[DONE]":
            is_done = True
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            return "error event"
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
            finish_reason = choice["finish_reason"] or finish_reason
            stop_reason = choice.get("stop_reason") or stop_reason
    if finish_reason is not None and not is_done:
        return "SILENTLY CUT: no [DONE]"
    return ask.judge(text, finish_reason, stop_reason)


@dataclass
class Traffic:
    """Clients that ask one request after another until `is_last` is set."""

    url: str
    random: random.Random
    is_last: bool = False
    results: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)

    async def run(self, number: int) -> None:
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=120, limits=limits) as plain,
            openai.AsyncOpenAI(
                base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120
            ) as official,
        ):
            asks: list[tuple[str, Callable[[Ask], Awaitable[str]]]] = [
                ("httpx", lambda ask: ask_httpx(plain, ask)),
                ("openai", lambda ask: ask_openai(official, ask)),
            ]
            await asyncio.gather(*(self._ask(*asks[at % 2]) for at in range(number)))

    async def _ask(self, name: str, send: Callable[[Ask], Awaitable[str]]) -> None:
        while not self.is_last:
            ask = Ask(
                self.random.random() < 0.3,
                self.random.random() < 0.7,
                self.random.choice([10, 40, 150]),
                self.random.choice([10, 40, 100]),
            )
            kind = f"{'looping' if ask.loops else 'clean'}, {'streamed' if ask.stream else 'whole'}"
            self.sent[f"{name}, {kind}"] += 1
            self.results[await send(ask)] += 1
            await asyncio.sleep(self.random.uniform(0, 0.1))


class Scraper:
    """Last counts of each run of a replica, read as Prometheus would, but more often."""

    def __init__(self, behind: list[Replica]) -> None:
        self._behind = behind
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._scrape)
        self.counts: dict[str, dict[tuple[str, str], float]] = {}  # by log, model and outcome
        self.at: dict[str, float] = {}  # when the last scrape began

    def __enter__(self) -> "Scraper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _scrape(self) -> None:
        while not self._ended.wait(_SCRAPE_SECONDS):
            for one in self._behind:
                log = one.log_path.name
                began = time.time()
                with suppress(OSError, ValueError):
                    counts = read_counts(get(one.admin_port, "/metrics", 2.0).decode())
                    if one.log_path.name == log:  # no other run has begun meanwhile
                        self.counts[log], self.at[log] = counts, began


def read_counts(exposition: str) -> dict[tuple[str, str], float]:
    """Return the requests counted, by endpoint and outcome."""
    counts: dict[tuple[str, str], float] = Counter()
    for labels, value in re.findall(r"^dedup_requests_total\{(.*)\} (\S+)$", exposition, re.M):
        named = dict(re.findall(r'(\w+)="(.*?)"', labels))
        counts[named["endpoint"], named["outcome"]] += float(value)
    return counts


def read_log(path: Path) -> list[tuple[float, str]]:
    """Return when each request of a run ended, and its outcome."""
    ended = []
    for line in path.read_text("utf-8", "replace").splitlines():
        with suppress(ValueError):  # a line that a kill has cut, or one for people
            told = json.loads(line)
            if told.get("event") == "request" and told.get("outcome"):
                at = time.strptime(told["time"][:19], "%Y-%m-%dT%H:%M:%S")
                seconds = (time.mktime(at) - time.timezone) + int(told["time"][20:23]) / 1000
                ended.append((seconds, told["outcome"]))
    return ended


async def roll(behind: list[Replica]) -> None:
    for one in behind:
        await restart(one)


async def restart(one: Replica) -> None:
    await asyncio.to_thread(one.stop)
    await asyncio.to_thread(one.start)


async def kill(one: Replica, killed: Counter[str]) -> None:
    killed[one.log_path.name] += 1
    await asyncio.to_thread(one.kill)
    await asyncio.sleep(1)
    await asyncio.to_thread(one.start)


async def torment(
    behind: list[Replica], seconds: float, chance: random.Random, done: Counter[str]
) -> Counter[str]:
    """Do one thing after another to the replicas. Return the kills in each run, by its log."""
    killed: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(chance.uniform(*_PAUSE_SECONDS))
        action = chance.choice(_ACTIONS)
        one, other = chance.sample(behind, 2)
        print(
            f"{end - time.monotonic():5.0f} s left: {action}: {one.name}, {other.name}", flush=True
        )
        done[action] += 1
        if action == "kill":
            await kill(one, killed)
        elif action == "kill a worker":
            killed[behind[-1].log_path.name] += 1
            behind[-1].kill_worker(chance)
        elif action == "restart":
            await restart(one)
        elif action == "reload":
            one.signal(signal.SIGHUP)
        elif action == "roll":
            await roll(behind)
        else:
            await asyncio.gather(restart(one), kill(other, killed))
    return killed


def check_counts(folder: Path, scraper: Scraper, killed: Counter[str]) -> list[str]:
    """Compare what was counted with what was logged, print both, and return what is wrong."""
    wrong = []
    counted = 0
    outcomes: Counter[str] = Counter()
    logs = sorted(folder.glob("replica-*.log"))
    for path in logs:
        ended = read_log(path)
        outcomes.update(outcome for _, outcome in ended)
        at = scraper.at.get(path.name, 0.0)
        before = sum(when + 0.001 < at for when, _ in ended)  # logged to the millisecond
        seen = int(sum(scraper.counts.get(path.name, {}).values()))
        counted += seen
        if not before <= seen <= len(ended) + killed[path.name]:
            wrong.append(f"{path.name}: {seen} counted, {before} to {len(ended)} logged")
    print(
        f"replicas: {outcomes.total()} requests logged in {len(logs)} runs, {dict(outcomes)};"
        f" {counted} in the last scrapes of each run, {outcomes.total() - counted} ended behind them"
    )
    return wrong


async def run(minutes: float, seed: int, clients: int, folder: Path) -> list[str]:
    """Run it all, print what happened, and return what went wrong."""
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    with (
        upstream(folder, _TEXTS) as upstream_port,
        replicas(_WORKERS, upstream_port, folder) as behind,
        envoy([one.port for one in behind], folder) as (port, admin),
    ):
        traffic = Traffic(f"http://127.0.0.1:{port}", random.Random(seed + 1))
        with Scraper(behind) as scraper:
            running = asyncio.create_task(traffic.run(clients))
            killed = await torment(behind, minutes * 60, chance, done)
            traffic.is_last = True
            await running
            await asyncio.sleep(2 * _SCRAPE_SECONDS + 1)
        retried = re.findall(
            r"^cluster\.dedup\.(upstream_rq_retry\w*): ([1-9]\d*)$",
            get(admin, "/stats").decode(),
            re.M,
        )
    num_sent, num_ended = traffic.sent.total(), traffic.results.total()
    print(f"\nactions: {dict(done)}")
    print(f"requests: {num_sent}, {dict(traffic.sent)}")
    print(f"results: {dict(traffic.results.most_common())}")
    print(f"Envoy: {dict(retried)}")
    wrong = check_counts(folder, scraper, killed)
    wrong += [
        f"{number} x {result}"
        for result, number in traffic.results.items()
        if result.startswith(("SILENTLY", "WRONG"))
    ]
    if num_sent != num_ended:
        wrong.append(f"{num_sent - num_ended} requests have not ended")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--clients", type=int, default=40)
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else secrets.randbelow(1_000_000)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        wrong = asyncio.run(run(args.minutes, seed, args.clients, Path(folder)))
    print(
        "\n".join(f"FAILED: {problem}" for problem in wrong) or "every request ended as it should"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
