"""What does it cost to read a stream of small pieces with this project's HTTP client and with aiohttp?

    python benchmarks/http_clients.py

128 streams of 100 pieces of some 200 bytes, one every 20 ms (6,400 pieces/s), over keep-alive connections, read and thrown away. CPU time
of this process (the server is another), in µs a piece; the clients take turns, medians of the rounds.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import uvloop
from tqdm import tqdm

from dedup_server.http.client import HttpClient, Timeouts

STREAMS, PIECES, EVERY_SECONDS = 128, 100, 0.02
_PIECE = (
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"'
    + b"x" * 80
    + b'"}}]}\n\n'
)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
Read = Callable[[], Awaitable[int]]


async def _serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(_HEAD)
            for _ in range(PIECES):
                await asyncio.sleep(EVERY_SECONDS)
                writer.write(b"%x\r\n%b\r\n" % (len(_PIECE), _PIECE))
            writer.write(b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _serve(port: Any) -> None:
    async def main() -> None:
        server = await asyncio.start_server(_serve_one, "127.0.0.1", 0, backlog=1024)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


async def _measure(read: Read) -> float:
    """CPU µs a piece."""
    before = time.process_time()
    sizes = await asyncio.gather(*(read() for _ in range(STREAMS)))
    spent = time.process_time() - before
    assert sizes == [PIECES * len(_PIECE)] * STREAMS
    return spent / (STREAMS * PIECES) * 1e6


async def compare(port: int, rounds: int) -> dict[str, float]:
    url = f"http://127.0.0.1:{port}/v1"
    own = HttpClient(url, Timeouts(10, 60, 60))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def read_own() -> int:
            response, size = await own.request("GET", "/stream", []), 0
            while received := await response.read():
                size += len(received)
            return size

        async def read_aiohttp() -> int:
            async with session.get(f"{url}/stream") as response:
                return sum([len(received) async for received in response.content.iter_any()])

        spent: dict[str, list[float]] = {"own": [], "aiohttp": []}
        for _ in tqdm(range(rounds), unit=" rounds", desc="http_clients"):
            for name, read in (("own", read_own), ("aiohttp", read_aiohttp)):
                spent[name].append(await _measure(read))
    own.close()
    return {name: statistics.median(values) for name, values in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    server = context.Process(target=_serve, args=(port,), daemon=True)
    server.start()
    try:
        medians = uvloop.run(compare(port.get(timeout=30), arguments.rounds))
    finally:
        server.terminate()
    print("| client | CPU µs a piece | of ours |\n| --- | --- | --- |")
    for name, value in medians.items():
        print(f"| {name} | {value:.1f} | {value / medians['own']:.1f}x |")


if __name__ == "__main__":
    main()
