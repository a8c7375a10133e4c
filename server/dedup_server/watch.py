"""The metrics of a server on a terminal, one line per model."""

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


class ScrapeError(Exception):
    """A scrape that failed; the message completes "the server ..."."""


def base_url(given: str) -> str:
    """Return the URL that `/metrics` is relative to.

    A missing scheme is added; `/metrics` or `/v1` at the end is removed.

    Raises:
        ValueError: `given` is not the URL of a server.
    """
    given = given.strip()
    url = given if "://" in given else f"http://{given}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{given!r} is not a URL: {error}") from None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
        or not url.isprintable()
        or " " in url
    ):
        raise ValueError(f"{given!r} is not the URL of a server, such as http://127.0.0.1:8000")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError(
            f"{given!r}: a user, query or fragment does not belong here, only host, port and path"
        )
    path = parts.path.rstrip("/")
    for ending in ("/metrics", "/v1"):
        path = path.removesuffix(ending)
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/')}"


@dataclass(frozen=True, slots=True)
class Scrape:
    """Values of one scrape of `/metrics`, by name and labels."""

    at: float  # as of `time.time`
    values: Mapping[tuple[str, Labels], float]

    @classmethod
    def of(cls, exposition: str, at: float) -> "Scrape":
        """Parse an exposition. Raise ValueError if it is not that of a dedup server."""
        values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(exposition)
            for sample in family.samples
            if sample.name.startswith("dedup_")
        }
        if not values:
            raise ValueError("it contains no metrics of dedup")
        return cls(at, values)

    @property
    def started_at(self) -> float | None:
        """Time at which the server's counters began, if it tells."""
        return self.values.get(("dedup_start_time_seconds", frozenset()))

    @property
    def models(self) -> list[str]:
        return sorted(
            {value for _, labels in self.values for label, value in labels if label == "model"}
        )

    @property
    def upstreams(self) -> dict[str, bool]:
        """Upstreams by name, and whether they are up."""
        return {
            dict(labels)["upstream"]: value > 0
            for (name, labels), value in self.values.items()
            if name == "dedup_upstream_up"
        }


class Window:
    """Metrics of one model between two scrapes.

    Args:
        before: the earlier scrape. Without it, the window begins at the server's start.
    """

    def __init__(self, model: str, now: Scrape, before: Scrape | None) -> None:
        self._model = ("model", model)
        self._now = now
        self._before = before
        self._begins_at = before.at if before else now.started_at

    def total(self, name: str, *labels: tuple[str, str]) -> float:
        """Return the increase of the counters `name` with these labels, summed.

        A counter that is lower than before was reset by a restart of the server.
        """
        increase = 0.0
        wanted = {self._model, *labels}
        for key, value in self._now.values.items():
            if key[0] == name and wanted <= key[1]:
                earlier = self._before.values.get(key, 0.0) if self._before else 0.0
                if value >= earlier:
                    increase += value - earlier
                else:
                    increase += value
        return increase

    def gauge(self, name: str) -> float:
        """Return the sum of the gauges `name` now."""
        return sum(
            value
            for (one, labels), value in self._now.values.items()
            if one == name and self._model in labels
        )

    def rate(self, name: str, *labels: tuple[str, str]) -> float | None:
        """Return `total` per second; None if it is not known how long the window is."""
        if self._begins_at is None or self._now.at <= self._begins_at:
            return None
        return self.total(name, *labels) / (self._now.at - self._begins_at)

    def mean(self, histogram: str) -> float | None:
        """Return the mean of the observations, None if there are none."""
        count = self.total(f"{histogram}_count")
        return self.total(f"{histogram}_sum") / count if count else None

    def quantile(self, histogram: str, share: float) -> float | None:
        """Return a quantile as Prometheus's `histogram_quantile` does.

        It is infinite beyond the last bucket, and None without observations.
        """
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
                if high == float("inf"):
                    return high
                return low + (high - low) * (rank - below) / (count - below)
            low, below = high, count
        return float("inf")


def cells(model: str, now: Scrape, before: Scrape | None) -> dict[str, str]:
    """Return the row of a model, by column."""
    window = Window(model, now, before)
    requests = window.rate("dedup_requests_total")
    loops = {action: window.rate("dedup_loops_total", ("action", action)) for action in _ACTIONS}
    loops["agents"] = window.rate("dedup_agent_loops_total")
    shown = [f"{action} {rate * 60:.1f}" for action, rate in loops.items() if rate]
    removed = window.total("dedup_removed_chars_total")
    chars = removed + window.total("dedup_output_chars_total")
    ratio = window.mean("dedup_repetition_ratio")
    return {
        "model": one_line(model),
        "requests/s": "-" if requests is None else f"{requests:.1f}",
        "streams": f"{window.gauge('dedup_streams_in_progress'):.0f}",
        "repetition": "-" if ratio is None else f"{ratio:.3f}",
        "removed": f"{removed / chars:.1%}" if chars else "-",
        "overhead p99": _overhead(window),
        "upstream": _up(now.upstreams),
        "loops/min": "-" if requests is None else ", ".join(shown) or "0",
    }


def _overhead(window: Window) -> str:
    overhead = window.quantile("dedup_overhead_seconds", _HIGHEST_QUANTILE)
    if overhead is None:
        return "-"
    return f"{overhead * 1000:.1f} ms" if overhead < float("inf") else "> 5 s"


def _up(upstreams: dict[str, bool]) -> str:
    if not upstreams:
        return "-"
    num_up = sum(upstreams.values())
    if len(upstreams) == 1:
        return "up" if num_up else "down"
    return f"{num_up}/{len(upstreams)} up"


# Columns that are as wide as their names.
_COLUMNS = ("requests/s", "streams", "repetition", "removed", "overhead p99", "upstream")


def table(rows: list[dict[str, str]]) -> Iterator[str]:
    """Yield a heading, then one line per row of `cells`."""
    columns = min(_NAME_COLUMNS, max(width(row["model"]) for row in rows))
    columns = max(columns, len("model"))
    for row in [{name: name for name in rows[0]}, *rows]:
        numbers = "  ".join(fit(row[name], len(name), right=True) for name in _COLUMNS)
        yield f"{fit(row['model'], columns)}  {numbers}  {row['loops/min']}"


class Screen:
    """Standard output. On a terminal, new lines replace those before them."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._num_lines = 0

    def show(self, rows: list[dict[str, str]]) -> None:
        """Show the rows of all models."""
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

    def show_message(self, message: str) -> None:
        """Show a message instead of rows."""
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


async def scrape(client: HttpClient) -> Scrape:
    """Read `/metrics`. Raise `ScrapeError` if that fails."""
    try:
        response = await client.request("GET", "/metrics", [(b"accept", b"text/plain")])
        body = await read_body(response)
    except (ConnectError, BrokenError, TimeoutError) as error:
        raise ScrapeError(f"cannot be reached: {error}") from None
    except ApiError as error:
        raise ScrapeError(str(error)) from None
    if response.status != 200:
        raise ScrapeError(f"answered {response.status} to /metrics")
    try:
        return Scrape.of(body.decode(), time.time())
    except (ValueError, KeyError, IndexError) as error:
        reason = error if isinstance(error, ValueError) else "it is malformed"
        raise ScrapeError(f"has no metrics of a dedup server at /metrics: {reason}") from None


async def watch(url: str, interval: float, count: int | None) -> bool:
    """Scrape and show, every `interval` seconds.

    Args:
        url: as returned by `base_url`.
        count: number of scrapes; None is without end.

    Returns:
        Whether any scrape succeeded.
    """
    client = HttpClient(
        url, Timeouts(_TIMEOUT_SECONDS, _TIMEOUT_SECONDS, _TIMEOUT_SECONDS, _TIMEOUT_SECONDS)
    )
    screen = Screen()
    before: Scrape | None = None
    try:
        for number in itertools.count(1):
            try:
                now = await scrape(client)
            except ScrapeError as error:
                screen.show_message(f"{url} {error}; retrying every {interval:g} s")
            else:
                screen.show([cells(model, now, before) for model in now.models])
                before = now
            if number == count:
                break
            await asyncio.sleep(interval)
    finally:
        client.close()
    return before is not None
