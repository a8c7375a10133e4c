"""What does the proxy cost beside nginx?

    python benchmarks/proxy_load.py                                       # five scenarios; some minutes on two cores
    python benchmarks/proxy_load.py --workers 1 2                         # and: do two workers carry twice as much?
    python benchmarks/proxy_load.py --workers 1 2 --share 0.3             # the same, each with so much of a core and no more
    python benchmarks/proxy_load.py --scenarios scale --streams 5000      # that many slow streams at once through one process
    python benchmarks/proxy_load.py --scenarios scale --streams 10000 --workers 2 --every 2000 --targets dedup
    python benchmarks/proxy_load.py --scenarios latency --targets direct envoy dedup envoy+dedup

Direct, through nginx (one worker, `proxy_buffering off`) and through `dedup serve` with its defaults, turn by turn, with the upstream
on this machine too. By default answers that are not streamed are requested as streams, of 100 chunks; `dedup, forwarding` requests them as
they came (`stream_upstream = false`). The proxy has a core to itself where there are two. Every answer must be whole, to the letter.
Numbers are medians over the repeats. CPU time is the proxy's own (user and system), for each chunk that the upstream sends (not streamed:
for each answer), and says more than chunks/s, which the upstream and the client bound where they have one core. TTFT is the time to the
first character.
"""

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _envoy import envoy_command
from _proxy_rig import (
    Cores,
    Load,
    cpu_seconds,
    dedup_command,
    free_port,
    limited,
    memory_mib,
    run_load,
    running,
    split_cores,
    upstream,
    workers_of,
)

SCENARIOS = {
    "paced": (
        "6,400 chunks/s, 128 streams",
        Load(128, 384, n=100, every=20, first=20, ramp_seconds=0.02),
    ),
    "unpaced": ("unpaced, 64 streams", Load(64, 384, n=400)),
    "whole": ("not streamed, 100 chunks, 32 connections", Load(32, 3000, n=100, stream=False)),
    "whole-paced": (
        "not streamed, 100 chunks in 1 s, 64 connections",
        Load(64, 640, n=100, every=10, first=5, ramp_seconds=0.5, stream=False),
    ),
    "idle": ("idle, one stream of 5 words at a time", Load(1, 200, n=5, every=2, first=5)),
    "latency": (
        "1,600 chunks/s, 32 streams",
        Load(32, 1280, n=20, every=20, first=20, ramp_seconds=0.4),
    ),
}
DEFAULT = ("paced", "unpaced", "whole", "whole-paced", "idle")
EXTRA = ("workers", "scale")
TARGETS = ("direct", "nginx", "dedup", "dedup, forwarding", "envoy", "envoy+dedup")
FORWARDING = "dedup, forwarding"  # measured where nothing is streamed
SCALE_CHUNKS = 20

NGINX = """
daemon off; worker_processes 1; worker_rlimit_nofile {files}; pid {directory}/pid; error_log stderr;
events {{ worker_connections {files}; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_buffer_size 1m;
  client_body_temp_path {directory}/a; proxy_temp_path {directory}/b;
  fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
"""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def started(
    target: str, upstream_port: int, cores: Cores, *more: str
) -> Iterator[tuple[int, int | None]]:
    """(port to ask, process to watch)."""
    port = free_port()
    if target == "direct":
        yield upstream_port, None
    elif target == "nginx":
        with tempfile.TemporaryDirectory() as directory:
            conf = Path(directory) / "nginx.conf"
            conf.write_text(
                NGINX.format(directory=directory, upstream=upstream_port, port=port, files=20_000)
            )
            with running(
                ["nginx", "-e", "stderr", "-c", str(conf)], port, "/v1/models", cores
            ) as pid:
                yield port, pid
    elif target == "envoy":
        with tempfile.TemporaryDirectory() as directory:
            command = envoy_command(Path(directory), port, free_port(), [upstream_port])
            with running(command, port, "/v1/models", cores) as pid:
                yield port, pid
    elif target == "envoy+dedup":
        with (
            started("dedup", upstream_port, cores, *more) as (dedup_port, _),
            started("envoy", dedup_port, cores) as envoy,
        ):
            yield envoy
    else:
        with tempfile.TemporaryDirectory() as directory:
            config = Path(directory) / "dedup.toml"
            config.write_text("stream_upstream = false\n" if target == FORWARDING else "")
            command = dedup_command(port, upstream_port, "--config", str(config), *more)
            with running(command, port, "/health/ready", cores) as pid:
                yield port, pid


class Bench:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.failures: list[str] = []

    def measure(
        self,
        scenario: str,
        target: str,
        load: Load,
        port: int,
        pid: int | None,
        cores: Cores,
        clients: int = 1,
    ) -> None:
        before = cpu_seconds(pid) if pid else 0.0
        row = run_load(port, load, cores, clients)
        if pid:
            row["cpu"] = (cpu_seconds(pid) - before) / (load.requests * load.units) * 1e6
            row["rss"], row["rss_peak"] = memory_mib(pid), memory_mib(pid, peak=True)
        self.rows.setdefault((scenario, target), []).append(row)
        cpu = f"{row['cpu']:.1f} µs CPU, " if pid else ""
        say(
            f"{scenario}, {target}: {cpu}{row['rate']:,.0f}/s, TTFT {row['ttft']:.2f} ms, {row['failed']} failed"
        )
        if row["failed"]:
            self.failures.append(
                f"{scenario}, {target}: {row['failed']} of {load.requests} requests: {row['problem']}"
            )

    def median(self, scenario: str, target: str, name: str) -> float | None:
        rows = self.rows.get((scenario, target), [])
        return statistics.median(row[name] for row in rows) if rows and name in rows[0] else None

    def added_ttft(self, scenario: str, target: str, name: str) -> float:
        pairs = zip(self.rows[scenario, target], self.rows[scenario, "direct"], strict=True)
        return float(statistics.median(row[name] - direct[name] for row, direct in pairs))

    def table(self, scenarios: list[str], targets: list[str]) -> None:
        print(
            "| scenario | through | CPU µs a chunk (answer) | of nginx | chunks (answers)/s | TTFT p50 added, ms | p99 | RSS, MiB |"
        )
        print("| --- |" + " --- |" * 7)
        for scenario in scenarios:
            for target in targets:
                if (scenario, target) not in self.rows:
                    continue
                cpu, beside = (
                    self.median(scenario, target, "cpu"),
                    self.median(scenario, "nginx", "cpu"),
                )
                ratio = f"{cpu / beside:.1f}x" if cpu and beside else "-"
                rate, rss = (
                    self.median(scenario, target, "rate"),
                    self.median(scenario, target, "rss"),
                )
                added = "- | -"
                if cpu is not None and shown_ttft(scenario) and (scenario, "direct") in self.rows:
                    names = ("ttft", "ttft_p99")
                    added = " | ".join(
                        f"{self.added_ttft(scenario, target, name):.2f}" for name in names
                    )
                shown = f"{cpu:.1f} | {ratio}" if cpu is not None else "- | -"
                print(
                    f"| {SCENARIOS[scenario][0]} | {target} | {shown} | {rate:,.0f} | {added} | {f'{rss:.0f}' if rss else '-'} |"
                )


def warm_up(port: int, cores: Cores) -> None:
    run_load(port, Load(16, 64, n=20), cores)


def of_target(target: str, scenarios: list[str]) -> list[str]:
    """Return the scenarios in which a target is measured."""
    if target != FORWARDING:
        return scenarios
    return [name for name in scenarios if not SCENARIOS[name][1].stream]


def shown_ttft(scenario: str) -> bool:
    """Return whether the time to the first character tells anything of the proxy."""
    load = SCENARIOS[scenario][1]
    return load.stream and load.every > 0


def compare(bench: Bench, scenarios: list[str], targets: list[str], repeats: int) -> None:
    proxy_cores, cores = split_cores()
    with upstream(cores) as upstream_port:
        for _ in range(repeats):
            for target in targets:
                with started(target, upstream_port, proxy_cores) as (port, pid):
                    warm_up(port, cores)
                    for scenario in of_target(target, scenarios):
                        bench.measure(scenario, target, SCENARIOS[scenario][1], port, pid, cores)
    bench.table(scenarios, targets)


def compare_workers(bench: Bench, numbers: list[int], repeats: int, share: float | None) -> None:
    """Saturated; as many client and upstream processes as there are cores left for them, so that they do not bound it. Where they
    share the workers' cores they do, when answers are streamed: those that are not cost the proxy far more than them. With a `share`
    that leaves enough of the cores to them, they do not."""
    proxy_cores, cores = split_cores(max(numbers))
    processes = max(1, min(4, len(cores) // 2)) if cores != proxy_cores else 1
    if share:
        proxy_cores = cores = proxy_cores | cores
        processes = 2
    loads = {
        "streamed, chunks": Load(128 * processes, 384 * processes, n=400),
        "not streamed, answers": Load(256 * processes, 4000 * processes, n=100, stream=False),
    }
    with upstream(cores, num_processes=processes) as upstream_port:
        for _ in range(repeats):
            for number in numbers:
                with started("dedup", upstream_port, proxy_cores, "--workers", str(number)) as (
                    port,
                    pid,
                ):
                    warm_up(port, cores)
                    assert pid is not None
                    with (
                        limited(workers_of(pid, number), share)
                        if share
                        else contextlib.nullcontext()
                    ):
                        for name, load in loads.items():
                            bench.measure(
                                name, f"{number} workers", load, port, pid, cores, processes
                            )
    print(
        "\n| | workers | a second | of the first row | CPU µs each | RSS, MiB |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name in loads:
        rates = {
            number: bench.median(name, f"{number} workers", "rate") or 0.0 for number in numbers
        }
        for number in numbers:
            cpu, rss = (bench.median(name, f"{number} workers", value) for value in ("cpu", "rss"))
            print(
                f"| {name} | {number} | {rates[number]:,.0f} | {rates[number] / rates[numbers[0]]:.2f}x | {cpu:.1f} | {rss:.0f} |"
            )
    if share:
        print(
            f"\nEach worker had {share:.0%} of a core; upstream and client had the rest of {len(cores)}."
        )
    elif cores == proxy_cores or len(cores) < max(numbers):
        print(f"\nOnly {len(cores | proxy_cores)} cores, which workers, upstream and client share.")


def scale(bench: Bench, streams: int, targets: list[str], every: int, workers: int) -> None:
    """All are open at once, for the last begins before the first ends. Each target starts afresh."""
    load = Load(
        streams,
        streams,
        n=SCALE_CHUNKS,
        every=every,
        ramp_seconds=min(SCALE_CHUNKS * every / 2000, streams / 500),
    )
    proxy_cores, cores = split_cores(workers)
    more = ["--workers", str(workers)] if workers > 1 else []
    lines = []
    for target in targets:
        with (
            upstream(cores) as upstream_port,
            started(target, upstream_port, proxy_cores, *more) as (port, pid),
        ):
            assert pid is not None
            warm_up(port, cores)
            idle = memory_mib(pid)
            bench.measure("scale", target, load, port, pid, cores)
            row = bench.rows["scale", target][-1]
            each = (row["rss_peak"] - idle) * 1024 / max(1, row["peak"])
            memory = f"{idle:.0f} | {row['rss_peak']:.0f} | {each:.1f}"
            lines.append(
                f"| {target} | {streams} | {row['peak']} | {row['failed']} | {row['cpu']:.1f} | {memory} |"
            )
    print(
        "\n| through | streams | open at once | failed | CPU µs a chunk | RSS idle, MiB | at peak | KiB a stream |"
    )
    print("| --- |" + " --- |" * 7)
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scenarios",
        nargs="+",
        choices=[*SCENARIOS, *EXTRA],
        help="default: the first five, and what is asked for",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--workers",
        nargs="+",
        type=int,
        metavar="N",
        help="compare these numbers of workers (scenario `workers`)",
    )
    parser.add_argument(
        "--share",
        type=float,
        metavar="X",
        help="give each worker X of a core (scenario `workers`; root)",
    )
    parser.add_argument(
        "--streams",
        type=int,
        metavar="N",
        help=f"N streams at once, {SCALE_CHUNKS} chunks each (scenario `scale`)",
    )
    parser.add_argument(
        "--every",
        type=int,
        default=1000,
        metavar="MS",
        help="between two chunks (scenario `scale`)",
    )
    parser.add_argument("--targets", nargs="+", choices=TARGETS, help="default: the first four")
    args = parser.parse_args()
    chosen = args.scenarios or [
        *DEFAULT,
        *(["workers"] if args.workers else []),
        *(["scale"] if args.streams else []),
    ]
    targets = args.targets or ["direct", "nginx", "dedup", FORWARDING]
    if "nginx" in targets and not shutil.which("nginx"):
        say("there is no `nginx` on the PATH: goes on without it, so there are no ratios")
        targets.remove("nginx")
    if len(set.union(*split_cores())) < 2:
        say("one core for all: the proxy is not pinned, and only its CPU time means something")
    bench = Bench()
    try:
        if scenarios := [name for name in chosen if name in SCENARIOS]:
            compare(bench, scenarios, targets, args.repeats)
        if "workers" in chosen:
            compare_workers(bench, args.workers or [1, 2], args.repeats, args.share)
        if "scale" in chosen:
            own = [one for one in targets if one not in ("direct", FORWARDING)]
            scale(bench, args.streams or 1000, own, args.every, max(args.workers or [1]))
    except RuntimeError as error:
        sys.exit(f"FAILED: {error}")
    if bench.failures:
        sys.exit("".join(f"FAILED: {failure}\n" for failure in bench.failures).rstrip())


if __name__ == "__main__":
    main()
