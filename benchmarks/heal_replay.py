"""Heal recorded loops behind a real engine: only the continuations are generated.

    python benchmarks/heal_replay.py smollm2-vllm live/smollm2-llamacpp_*_t0_off.jsonl --out vllm.loops.jsonl
    python benchmarks/healing.py vllm=vllm.loops.jsonl

A stand-in between `dedup serve` and the engine answers a prompt with its recorded text, token by token, and hands
on the requests that continue it. Recorded texts are those of `live.py` without the filter (`*_off.jsonl`); those that
run to their limit in a loop are taken. `--prompts` writes their prompts instead, for `live.py --prompts`: the local
engine cannot be replayed.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
from _cycles import onset_of
from _live_servers import ROOT, SERVERS, command_of, free_port, running
from _proxy_rig import pieces_of
from aiohttp import web
from live import seed_of
from tqdm import tqdm

Json = dict[str, Any]
ENGINES: Final = tuple(name for name, one in SERVERS.items() if one.model == "smollm2")
_STREAM: Final = {"content-type": "text/event-stream"}
_FORWARDED: Final = ("/v1/chat/completions", "/v1/models", "/health")


def loops_in(paths: list[Path]) -> list[Json]:
    """Return the recorded answers that end in a loop, in a random order that is always the same."""
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [
        row
        for row in map(json.loads, lines)
        if row["finish"] == "length" and onset_of(row["text"]) is not None
    ]
    random.Random(0).shuffle(rows)
    return rows


class StandIn:
    """An upstream that replays recorded answers, and asks an engine to continue them.

    Args:
        engine: Address of the engine.
        texts: The recorded answer to each prompt.
    """

    def __init__(self, engine: str, texts: dict[str, str]) -> None:
        self._engine = engine
        self._texts = texts
        self.application = web.Application(client_max_size=1 << 24)
        self.application.router.add_post("/v1/chat/completions", self._answer)
        self.application.router.add_get("/{path:.*}", self._forward)
        self.application.cleanup_ctx.append(self._connect)

    async def _connect(self, application: web.Application) -> Any:
        # llama.cpp closes connections that are kept.
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._session:
            yield

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        address = self._engine + request.path
        headers = {"content-type": "application/json"}
        async with self._session.request(
            request.method, address, data=data, headers=headers
        ) as found:
            answer = web.StreamResponse(status=found.status)
            answer.content_type = found.content_type
            await answer.prepare(request)
            with suppress(ConnectionResetError):  # the client has gone
                async for block in found.content.iter_any():
                    await answer.write(block)
            return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        last = body["messages"][-1]
        if last["role"] == "assistant":
            return await self._forward(request)
        response = web.StreamResponse(headers=_STREAM)
        await response.prepare(request)
        with suppress(ConnectionResetError):  # the loop was found
            for piece in pieces_of(self._texts[last["content"]]):
                await response.write(_chunk({"content": piece}, None))
                await asyncio.sleep(0)
            await response.write(_chunk({}, "length") + b"data: [DONE]\n\n")
        return response


def _chunk(delta: Json, finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    data = {"id": "r", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**data, "choices": [choice]}).encode() + b"\n\n"


@contextmanager
def engines_of(name: str, args: argparse.Namespace) -> Iterator[list[str]]:
    """Run a server's engine; yield its addresses, each once for every answer that it generates at once."""
    server, addresses = SERVERS[name], []
    with ExitStack() as stack:
        for number in range(2 if server.parallel == 1 else 1):
            port = free_port()
            address = f"http://127.0.0.1:{port}"
            command = command_of(server, port, args.cache, args.max_tokens)
            log = args.out.with_suffix(f".{number}.log")
            stack.enter_context(running(command, address, "/health", log))
            addresses += [address]
        yield addresses


async def heal(name: str, rows: list[Json], addresses: list[str], args: argparse.Namespace) -> None:
    texts = {row["prompt"]: row["text"] for row in rows}
    with ExitStack() as stack:
        proxies, runners = [], []
        for number, address in enumerate(addresses):
            runner = web.AppRunner(StandIn(address, texts).application)
            await runner.setup()
            port, own = free_port(), free_port()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            runners.append(runner)
            command = [sys.executable, "-m", "dedup", "serve", "--port", str(own)]
            command += ["--upstream", f"http://127.0.0.1:{port}/v1"]
            proxy = f"http://127.0.0.1:{own}"
            log = args.out.with_name(f"{args.out.stem}-{number}.log")
            context = running(command, proxy, "/health/ready", log)
            await asyncio.to_thread(stack.enter_context, context)
            proxies.append(proxy)
        places = asyncio.Semaphore(max(len(addresses), SERVERS[name].parallel))
        with tqdm(total=len(rows), desc=name) as bar:
            jobs = enumerate(rows)
            timeout = aiohttp.ClientTimeout(None)
            async with aiohttp.ClientSession(timeout=timeout) as session:

                async def one(number: int, row: Json) -> None:
                    async with places:
                        await ask(session, proxies[number % len(proxies)], row, args.max_tokens)
                    bar.update()

                await asyncio.gather(*(one(*job) for job in jobs))
        for runner in runners:
            await runner.cleanup()
    logs = [args.out.with_name(f"{args.out.stem}-{n}.loops.jsonl") for n in range(len(addresses))]
    args.out.write_text("".join(log.read_text(encoding="utf-8") for log in logs), encoding="utf-8")


async def ask(session: aiohttp.ClientSession, proxy: str, row: Json, max_tokens: int) -> None:
    async with session.get(proxy + "/v1/models") as response:
        model = (await response.json())["data"][0]["id"]
    body = {"model": model, "stream": True, "temperature": 0, "max_tokens": max_tokens}
    body |= {"messages": [{"role": "user", "content": row["prompt"]}], "seed": seed_of(row)}
    async with session.post(proxy + "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        await response.read()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("server", choices=ENGINES)
    parser.add_argument("recorded", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("healed.loops.jsonl"))
    parser.add_argument("--limit", type=int, default=100, help="loops (default 100)")
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--cache", type=Path, default=ROOT / ".weights")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="only write the loops' prompts"
    )
    args = parser.parse_args()
    rows = loops_in(args.recorded)[: args.limit]
    if args.prompts:
        kept = [{key: row[key] for key in ("id", "language", "prompt")} for row in rows]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in kept]
        args.prompts.write_text("".join(lines), encoding="utf-8")
        return
    for old in args.out.parent.glob(f"{args.out.stem}-*.loops.jsonl"):
        old.unlink()
    with engines_of(args.server, args) as addresses:
        asyncio.run(heal(args.server, rows, addresses, args))


if __name__ == "__main__":
    main()
