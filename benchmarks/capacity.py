"""Cores, replicas and bytes that many streams take, and what breaks first.

    python benchmarks/capacity.py                                     # 10^6 streams, by the costs of this file
    python benchmarks/capacity.py --streams 200000 --price 0.03      # others, at so much a core and hour
    python benchmarks/capacity.py --measure                           # calibrate on this machine, check, simulate

The model of one worker: its event loop wakes up, handles the chunks that have arrived, and sleeps if
none came meanwhile. CPU time is `wake` a wake-up, `chunk` and `char` a chunk, `request` a request.
The more chunks a second, the more share a wake-up, so the loop is simulated, chunk by chunk.

`--measure` fits the costs to four loads of one worker, and checks them on other loads: other numbers
of streams, rates, chunk sizes, and 1, 2 and 4 workers. It counts the CPU time of the server's
processes, and their wake-ups (voluntary context switches); upstream and client do not count. A loaded
machine wakes a process later, so that it handles more chunks at once: the costs are checked with the
wake-ups that were counted, and the table has those of the simulation, whose machine is idle, beside them.
"""

import argparse
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

WARM_UP_SECONDS = 0.3
KEPT_PACE = 0.95  # of the fastest run of the same load


@dataclass(frozen=True)
class Costs:
    """CPU time in microseconds, memory in KiB, sizes in bytes."""

    wake: float
    chunk: float
    char: float
    request: float
    idle_per_second: float  # of a worker without requests
    worker_kib: float
    stream_kib: float  # without text
    char_kib: float  # of the text that a stream has so far
    metrics_bytes: float  # of one scrape, two models
    log_line_bytes: float


MEASURED = Costs(  # docs/guides/capacity.md
    wake=107.2,
    chunk=21.9,
    char=0.741,
    request=262.0,
    idle_per_second=1220.0,
    worker_kib=94_288.0,
    stream_kib=35.1,
    char_kib=0.0434,
    metrics_bytes=8882.0,
    log_line_bytes=229.0,
)


@dataclass(frozen=True)
class Traffic:
    """Load of one worker: streams in progress, and each one's chunks."""

    streams: float
    chunks_per_second: float  # of a stream
    chars: float  # of a chunk
    chunks: float  # of an answer
    burst_seconds: float = 0.0  # chunks come together at its multiples; 0 is at random times

    @property
    def rate(self) -> float:
        return self.streams * self.chunks_per_second

    @property
    def requests_per_second(self) -> float:
        return self.rate / self.chunks


@dataclass(frozen=True)
class Simulated:
    """A worker under some traffic. cores: above 1 it cannot keep up. lag: of chunks, in seconds."""

    cores: float
    micros_per_chunk: float
    chunks_per_wake: float
    lag_p50: float
    lag_p99: float


def simulated(costs: Costs, traffic: Traffic, num_chunks: int = 60_000) -> Simulated:
    """Simulate the event loop of a worker; chunks arrive at random times, or in bursts."""
    chunk = (costs.chunk + costs.char * traffic.chars + costs.request / traffic.chunks) / 1e6
    wake = costs.wake / 1e6
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / traffic.rate, num_chunks))
    if traffic.burst_seconds:
        arrivals = np.ceil(arrivals / traffic.burst_seconds) * traffic.burst_seconds
    now, done, num_wakes = 0.0, 0, 0
    lags = np.empty(num_chunks)
    while done < num_chunks:
        now = max(now, arrivals[done]) + wake
        ready = max(int(np.searchsorted(arrivals, now, side="right")), done + 1)
        lags[done:ready] = now + chunk * np.arange(1, ready - done + 1) - arrivals[done:ready]
        now += chunk * (ready - done)
        done = ready
        num_wakes += 1
    micros = 1e6 * (wake * num_wakes / num_chunks + chunk)
    cores = traffic.rate * micros / 1e6 + costs.idle_per_second / 1e6
    p50, p99 = np.percentile(lags, [50, 99])
    return Simulated(cores, micros, num_chunks / num_wakes, float(p50), float(p99))


# --- Measurement ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A load, and what the server's processes took for it."""

    workers: int
    streams: int
    every: float
    n: int
    words: int
    micros_per_chunk: float
    rate: float  # chunks a second, of all workers
    chars: float
    wakes: float  # wake-ups a chunk

    @property
    def traffic(self) -> Traffic:
        """Return the traffic of one worker."""
        chunks = self.n / self.words + 2
        return Traffic(self.streams / self.workers, self.rate / self.streams, self.chars, chunks)


# (workers, streams, milliseconds between chunks, words of an answer, words of a chunk, answers)
CALIBRATION = (
    (1, 48, 30, 100, 1, 96),
    (1, 128, 20, 100, 1, 256),
    (1, 96, 30, 800, 8, 192),
    (1, 32, 4, 4, 1, 3000),
)
CHECKS = (
    (1, 60, 25, 150, 2, 180),
    (2, 200, 40, 300, 3, 200),
    (4, 320, 50, 500, 5, 320),
)
Row = tuple[int, int, float, int, int, int]


def measured(row: Row) -> Point:
    """Run a load and return what it took."""
    from _proxy_rig import (
        PROSE,
        Load,
        cpu_seconds,
        dedup_command,
        free_port,
        num_sleeps,
        run_load,
        running,
        split_cores,
        upstream,
    )

    workers, streams, every, n, words, answers = row
    own, others = split_cores()
    load = Load(streams, answers, n, every, first=5, words=words, ramp_seconds=0.5)
    with upstream(others) as up:
        port = free_port()
        more = ("--workers", str(workers)) if workers > 1 else ()
        command = dedup_command(port, up, *more)
        with running(command, port, "/health/ready", own) as pid:
            warm = Load(streams, streams, 4, 1, first=1, ramp_seconds=0.2)
            run_load(port, warm, others)
            time.sleep(WARM_UP_SECONDS)
            before, slept = cpu_seconds(pid), num_sleeps(pid)
            seen = run_load(port, load, others)
            spent, slept = cpu_seconds(pid) - before, num_sleeps(pid) - slept
    if seen["failed"]:
        raise RuntimeError(f"{seen['failed']} answers failed: {seen['problem']}")
    chars = len("".join(PROSE[:n])) / load.units
    num_chunks = load.units * answers
    micros = spent * 1e6 / num_chunks
    return Point(workers, streams, every, n, words, micros, seen["rate"], chars, slept / num_chunks)


def modelled(costs: Costs, point: Point) -> float:
    """Return the CPU µs a chunk that the costs give for a point and its wake-ups."""
    idle = costs.idle_per_second * point.workers / point.rate
    request = costs.request / point.traffic.chunks
    return idle + costs.wake * point.wakes + costs.chunk + costs.char * point.chars + request


def fitted(points: list[Point], base: Costs) -> Costs:
    """Return the costs with the least squared relative error, found by steps that get smaller."""

    def error(costs: Costs) -> float:
        return sum((modelled(costs, point) / point.micros_per_chunk - 1) ** 2 for point in points)

    best, least = base, error(base)
    for step in (2.0, 1.2, 1.05, 1.01, 1.002):
        improves = True
        while improves:
            improves = False
            for name in ("wake", "chunk", "char", "request"):
                for factor in (step, 1 / step):
                    tried = replace(best, **{name: getattr(best, name) * factor})
                    if (its := error(tried)) < least * 0.9999:
                        best, least, improves = tried, its, True
    return best


@dataclass(frozen=True)
class Held:
    """A server with so many open streams, all of them with `chars` characters in the end."""

    streams: int
    chars: float
    stream_kib: float  # more than without streams, at the highest
    idle: float  # CPU microseconds a second without streams
    worker_kib: float
    metrics_bytes: float
    log_line_bytes: float


def held(streams: int, words: int) -> Held:
    """Open streams that take 8 seconds, and return what they take."""
    from _proxy_rig import (
        PROSE,
        Load,
        cpu_seconds,
        dedup_command,
        free_port,
        memory_mib,
        run_load,
        running,
        split_cores,
        upstream,
    )

    own, others = split_cores()
    with upstream(others) as up, tempfile.NamedTemporaryFile() as log:
        port = free_port()
        command = ["sh", "-c", 'exec "$@" 2>' + log.name, "sh", *dedup_command(port, up)]
        with running(command, port, "/health/ready", own) as pid:
            run_load(port, Load(16, 16, 100, 10, ramp_seconds=0.1), others)
            before, small = cpu_seconds(pid), memory_mib(pid) * 1024
            time.sleep(3)
            idle = (cpu_seconds(pid) - before) / 3 * 1e6
            load = Load(streams, streams, words, 8000 / words, first=5, ramp_seconds=4)
            seen = run_load(port, load, others)
            if seen["failed"] or seen["peak"] < streams:
                raise RuntimeError(f"{seen['peak']} streams at once: {seen['problem']}")
            each = (memory_mib(pid, peak=True) * 1024 - small) / streams
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
                scrape = len(response.read())
            line = Path(log.name).stat().st_size / (streams + 16)
    return Held(streams, len("".join(PROSE[:words])), each, idle, small, scrape, line)


# (streams, words of an answer): two to fit, one to check
HELD = ((1000, 20), (1000, 160), (1600, 80))


def memory(base: Costs) -> Costs:
    """Measure memory, idle CPU, the size of a scrape and of a line of the log."""
    short, long, other = [held(*row) for row in HELD]
    char = (long.stream_kib - short.stream_kib) / (long.chars - short.chars)
    stream = short.stream_kib - char * short.chars
    model = stream + char * other.chars
    print("| Streams | Chars of each | KiB a stream: measured | Model | Error |")
    print("| --- | --- | --- | --- | --- |")
    print(
        f"| {other.streams} | {other.chars:.0f} | {other.stream_kib:.1f} | {model:.1f} |"
        f" {model / other.stream_kib - 1:+.1%} (check) |"
    )
    return replace(
        base,
        idle_per_second=other.idle,
        worker_kib=other.worker_kib,
        stream_kib=stream,
        char_kib=char,
        metrics_bytes=other.metrics_bytes,
        log_line_bytes=other.log_line_bytes,
    )


def typical(found: list[Point]) -> Point:
    """Return the median of the runs that kept the pace: others show a machine without time."""
    fastest = max(point.rate for point in found)
    kept = [point for point in found if point.rate > KEPT_PACE * fastest]
    return sorted(kept, key=lambda point: point.micros_per_chunk)[len(kept) // 2]


def measure(repeats: int) -> Costs:
    """Calibrate, check, and print both."""
    rows = [*CALIBRATION, *CHECKS]
    runs: dict[Row, list[Point]] = {row: [] for row in rows}
    for number in range(repeats):
        for row in rows:
            runs[row].append(point := measured(row))
            print(f"{number + 1}: {point}", file=sys.stderr)
    points = {row: typical(found) for row, found in runs.items()}
    costs = fitted([points[row] for row in CALIBRATION], MEASURED)
    print(
        "| Workers | Streams | Chunks/s | Chars a chunk | Wake-ups a chunk | Simulated |"
        " CPU µs a chunk | Model | Error |"
    )
    print("|" + " --- |" * 9)
    for row in rows:
        point = points[row]
        model = modelled(costs, point)
        quiet = 1 / simulated(costs, point.traffic).chunks_per_wake
        told = "fit" if row in CALIBRATION else "check"
        print(
            f"| {point.workers} | {point.streams} | {point.rate:.0f} | {point.chars:.1f} |"
            f" {point.wakes:.2f} | {quiet:.2f} | {point.micros_per_chunk:.1f} | {model:.1f} |"
            f" {model / point.micros_per_chunk - 1:+.1%} ({told}) |"
        )
    print()
    costs = memory(costs)
    print(f"\n{costs}\n")
    return costs


# --- Extension ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """Limits of a replica, and prices."""

    workers: int
    cpu_share: float  # of a core that a worker may use on average
    memory_mib: float
    open_files: int
    ports: int  # to one address of the upstream
    scrape_seconds: float
    price: float  # of a core and hour


def largest(costs: Costs, traffic: Traffic, share: float) -> float:
    """Return how many such streams take `share` of a core."""
    low, high = 1.0, 1e6
    for _ in range(30):
        middle = (low * high) ** 0.5
        its = replace(traffic, streams=middle)
        if simulated(costs, its, 5_000).cores < share:
            low = middle
        else:
            high = middle
    return low


def extend(costs: Costs, traffic: Traffic, site: Site) -> list[tuple[str, str]]:
    """Return what `traffic.streams` streams take, and the limits of a replica, lowest first."""
    workers = site.workers
    per_worker_files = (site.open_files - 128) // 2
    # A stream in progress has half of its text, on average.
    each_kib = costs.stream_kib + costs.char_kib * traffic.chars * traffic.chunks / 2
    free_kib = site.memory_mib * 1024 - costs.worker_kib * workers
    limits = {
        f"CPU ({site.cpu_share:.0%} of a core for each worker)": workers
        * largest(costs, traffic, site.cpu_share),
        f"open files ({site.open_files} a process, two a stream)": workers * per_worker_files,
        f"ports ({site.ports} to one address of the upstream)": float(site.ports),
        f"memory ({site.memory_mib:.0f} MiB)": free_kib / each_kib,
    }
    streams = min(limits.values())
    replicas = int(np.ceil(traffic.streams / streams))
    each = replace(traffic, streams=traffic.streams / replicas / workers)
    worker = simulated(costs, each)
    cores = worker.cores * workers * replicas
    reserved = workers * replicas
    per_million = worker.micros_per_chunk * 1e6 / 1e6 / 3600 * site.price
    scrape = replicas * costs.metrics_bytes / site.scrape_seconds
    log = traffic.requests_per_second * costs.log_line_bytes
    memory_gib = (replicas * workers * costs.worker_kib + traffic.streams * each_kib) / 2**20
    rows = [
        ("streams", f"{traffic.streams:,.0f}"),
        ("chunks a second", f"{traffic.rate:,.0f}"),
        ("requests a second", f"{traffic.requests_per_second:,.0f}"),
        ("replicas", f"{replicas:,} of {workers} workers"),
        ("streams a replica", f"{traffic.streams / replicas:,.0f}"),
        ("cores busy, reserved", f"{cores:,.0f}, {reserved:,}"),
        ("CPU µs a chunk", f"{worker.micros_per_chunk:.1f}"),
        ("price of a million chunks", f"{per_million:.5f} busy, "
         f"{per_million * reserved / cores:.5f} reserved"),
        ("price an hour", f"{reserved * site.price:,.2f}"),
        ("memory", f"{memory_gib:,.1f} GiB"),
        ("event loop lag", f"p50 {worker.lag_p50 * 1e3:.2f} ms, p99 {worker.lag_p99 * 1e3:.2f} ms"),
        ("scrapes", f"{scrape / 2**20:.2f} MiB/s every {site.scrape_seconds:.0f} s"),
        ("log", f"{log / 2**20:.2f} MiB/s, {log * 86400 / 2**30:,.0f} GiB a day"),
    ]  # fmt: skip
    ordered = sorted(limits.items(), key=lambda limit: limit[1])
    return rows + [(f"limit {at + 1}: {name}", f"{most:,.0f} streams a replica")
                   for at, (name, most) in enumerate(ordered)]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--streams", type=float, default=1e6)
    parser.add_argument("--chunks-per-second", type=float, default=30, help="of a stream")
    parser.add_argument("--chars", type=float, default=4.5, help="of a chunk")
    parser.add_argument("--chunks", type=float, default=500, help="of an answer")
    parser.add_argument("--burst-ms", type=float, default=0, help="between bursts of chunks")
    parser.add_argument("--workers", type=int, default=1, help="of a replica")
    parser.add_argument("--cpu-share", type=float, default=0.6, help="of a core a worker may use")
    parser.add_argument("--memory", type=float, default=1024, help="MiB of a replica")
    parser.add_argument("--open-files", type=int, default=65536, help="of a process")
    parser.add_argument("--ports", type=int, default=28232, help="to one address (Linux's default)")
    parser.add_argument("--scrape-seconds", type=float, default=15)
    parser.add_argument("--price", type=float, default=0.04, help="of a core and hour")
    parser.add_argument("--measure", action="store_true", help="calibrate and check first (Linux)")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    costs = measure(asked.repeats) if asked.measure else MEASURED
    traffic = Traffic(
        asked.streams,
        asked.chunks_per_second,
        asked.chars,
        asked.chunks,
        asked.burst_ms / 1000,
    )
    site = Site(
        asked.workers, asked.cpu_share, asked.memory, asked.open_files, asked.ports,
        asked.scrape_seconds, asked.price,
    )  # fmt: skip
    rows = extend(costs, traffic, site)
    for name, value in rows:
        print(f"{name:56}{value}")


if __name__ == "__main__":
    main()
