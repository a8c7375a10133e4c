"""A server's metrics on a terminal: what happened between two looks, a line a model."""

import asyncio
import itertools
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from dedup.terminal import fit, one_line, shortened, width
from dedup_server.engines.upstream.server import read_body
from dedup_server.errors import ApiError
from dedup_server.http.client import BrokenError, ConnectError, HttpClient, Timeouts

_TIMEOUT_SECONDS = 10.0
_NAME_COLUMNS = 32
_ACTIONS = ("cut", "healed", "flagged")
_HIGHEST_QUANTILE = 0.99

Labels = frozenset[tuple[str, str]]


class NoMetricsError(Exception):
    """A look at the server brought nothing; the message says why."""


def base_url(given: str) -> str:
    """The address below which `/metrics` stands: a scheme is added, and `/metrics` or `/v1` at the end taken off. Raises ValueError."""
    given = given.strip()
    url = given if "://" in given else f"http://{given}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{given!r} is no URL: {error}") from None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
        or not url.isprintable()
        or " " in url
    ):
        raise ValueError(f"{given!r} is no URL of a server; it looks like http://127.0.0.1:8000")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError(
            f"{given!r}: only host, port and path belong here, no user, query or fragment"
        )
    path = parts.path.rstrip("/")
    for ending in ("/metrics", "/v1"):
        path = path.removesuffix(ending)
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/')}"


@dataclass(frozen=True, slots=True)
class Look:
    """What `/metrics` said. at: when, on the clock of `time.monotonic`."""

    at: float
    values: Mapping[tuple[str, Labels], float]

    @classmethod
    def of(cls, exposition: str, at: float) -> "Look":
        """Raises ValueError for what is no exposition of a dedup server."""
        values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(exposition)
            for sample in family.samples
            if sample.name.startswith("dedup_")
        }
        if not values:
            raise ValueError("it has no metrics of dedup")
        return cls(at, values)

    @property
    def models(self) -> list[str]:
        return sorted(
            {value for _, labels in self.values for label, value in labels if label == "model"}
        )

    @property
    def upstreams(self) -> dict[str, bool]:
        """Whether each is up."""
        return {
            dict(labels)["upstream"]: value > 0
            for (name, labels), value in self.values.items()
            if name == "dedup_upstream_up"
        }


class Window:
    """What one model did between two looks; before there are two, since the server began, and then without rates."""

    def __init__(self, model: str, now: Look, before: Look | None) -> None:
        self._model = ("model", model)
        self._now = now
        self._before = before

    def total(self, name: str, *labels: tuple[str, str]) -> float:
        """By how much the counters `name` with these labels grew, all together. One that fell began anew: the server was restarted."""
        grown = 0.0
        wanted = {self._model, *labels}
        for key, value in self._now.values.items():
            if key[0] == name and wanted <= key[1]:
                earlier = self._before.values.get(key, 0.0) if self._before else 0.0
                grown += value - earlier if value >= earlier else value
        return grown

    def gauge(self, name: str) -> float:
        return sum(
            value
            for (one, labels), value in self._now.values.items()
            if one == name and self._model in labels
        )

    def rate(self, name: str, *labels: tuple[str, str]) -> float | None:
        """Per second."""
        if self._before is None or self._now.at <= self._before.at:
            return None
        return self.total(name, *labels) / (self._now.at - self._before.at)

    def mean(self, histogram: str) -> float | None:
        count = self.total(f"{histogram}_count")
        return self.total(f"{histogram}_sum") / count if count else None

    def quantile(self, histogram: str, share: float) -> float | None:
        """As Prometheus' `histogram_quantile`; infinite if it lies beyond the last bucket."""
        name = f"{histogram}_bucket"
        bounds = {
            dict(labels)["le"]
            for one, labels in self._now.values
            if one == name and self._model in labels
        }
        buckets = sorted((float(bound), self.total(name, ("le", bound))) for bound in bounds)
        if not buckets or not buckets[-1][1]:
            return None
        rank = share * buckets[-1][1]
        low, below = 0.0, 0.0
        for high, count in buckets:
            if count >= rank:
                return (
                    high
                    if high == float("inf")
                    else low + (high - low) * (rank - below) / (count - below)
                )
            low, below = high, count
        return float("inf")


def cells(model: str, now: Look, before: Look | None) -> dict[str, str]:
    """What is shown of a model, by column."""
    window = Window(model, now, before)
    requests = window.rate("dedup_requests_total")
    loops = {action: window.rate("dedup_loops_total", ("action", action)) for action in _ACTIONS}
    told = [f"{action} {rate * 60:.1f}" for action, rate in loops.items() if rate]
    removed = window.total("dedup_removed_chars_total")
    chars = removed + window.total("dedup_output_chars_total")
    ratio = window.mean("dedup_repetition_ratio")
    overhead = window.quantile("dedup_overhead_seconds", _HIGHEST_QUANTILE)
    num_up, num_upstreams = sum(now.upstreams.values()), len(now.upstreams)
    return {
        "model": one_line(model),
        "requests/s": "-" if requests is None else f"{requests:.1f}",
        "streams": f"{window.gauge('dedup_streams_in_progress'):.0f}",
        "repetition": "-" if ratio is None else f"{ratio:.3f}",
        "removed": f"{removed / chars:.1%}" if chars else "-",
        "overhead p99": "-"
        if overhead is None
        else f"{overhead * 1000:.1f} ms"
        if overhead < float("inf")
        else "> 5 s",
        "upstream": "-"
        if not num_upstreams
        else ("down", "up")[num_up]
        if num_upstreams == 1
        else f"{num_up}/{num_upstreams} up",
        "loops/min": "-" if before is None else ", ".join(told) or "0",
    }


_COLUMNS = (
    "requests/s",
    "streams",
    "repetition",
    "removed",
    "overhead p99",
    "upstream",
)  # as wide as their names


def table(rows: list[dict[str, str]]) -> Iterator[str]:
    """A heading, and a line a model."""
    columns = min(_NAME_COLUMNS, max(width(row["model"]) for row in rows))
    columns = max(columns, len("model"))
    for row in [{name: name for name in rows[0]}, *rows]:
        numbers = "  ".join(fit(row[name], len(name), right=True) for name in _COLUMNS)
        yield f"{fit(row['model'], columns)}  {numbers}  {row['loops/min']}"


class Screen:
    """Where lines go: on a terminal over those before them, else below."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._num_lines = 0

    def show(self, rows: list[dict[str, str]]) -> None:
        if self._live:
            self._redraw(list(table(rows)) if rows else ["no requests yet"])
            return
        now = time.strftime("%H:%M:%S")
        for row in rows:
            print(
                now,
                row["model"],
                *(f" {name} {value}" for name, value in row.items() if name != "model"),
                flush=True,
            )
        if not rows:
            print(now, "no requests yet", flush=True)

    def say(self, message: str) -> None:
        message = f"{time.strftime('%H:%M:%S')} {one_line(message)}"
        if self._live:
            self._redraw([message])
        else:
            print(message, flush=True)

    def _redraw(self, lines: list[str]) -> None:
        size = shutil.get_terminal_size()
        if len(lines) >= size.lines:
            lines = [*lines[: size.lines - 2], f"and {len(lines) - size.lines + 2} more"]
        up = f"\x1b[{self._num_lines}A" if self._num_lines else ""
        shown = "".join(f"{shortened(line, size.columns - 1)}\n" for line in lines)
        print(f"{up}\r\x1b[J{shown}", end="", flush=True)
        self._num_lines = len(lines)


async def look(client: HttpClient) -> Look:
    """Raises `NoMetricsError`."""
    try:
        response = await client.request("GET", "/metrics", [(b"accept", b"text/plain")])
        body = await read_body(response)
    except (ConnectError, BrokenError, TimeoutError) as error:
        raise NoMetricsError(f"cannot be reached: {error}") from None
    except ApiError as error:
        raise NoMetricsError(str(error)) from None
    if response.status != 200:
        raise NoMetricsError(f"answered {response.status} to /metrics")
    try:
        return Look.of(body.decode(), time.monotonic())
    except (ValueError, KeyError, IndexError) as error:
        reason = error if isinstance(error, ValueError) else "it is malformed"
        raise NoMetricsError(
            f"what stands at /metrics is none of a dedup server: {reason}"
        ) from None


async def watch(url: str, interval: float, count: int | None) -> bool:
    """Looks every `interval` seconds, `count` times or without end. Whether any look brought something."""
    client = HttpClient(
        url, Timeouts(_TIMEOUT_SECONDS, _TIMEOUT_SECONDS, _TIMEOUT_SECONDS, _TIMEOUT_SECONDS)
    )
    screen = Screen()
    before: Look | None = None
    try:
        for number in itertools.count(1):
            try:
                now = await look(client)
            except NoMetricsError as error:
                screen.say(f"{url} {error}; looking again every {interval:g} s")
            else:
                screen.show([cells(model, now, before) for model in now.models])
                before = now
            if number == count:
                break
            await asyncio.sleep(interval)
    finally:
        client.close()
    return before is not None
