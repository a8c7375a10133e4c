"""All metrics, each declared once. A request counts in integers, added when it ends."""

from collections.abc import Iterable
from typing import Any, Literal

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from dedup.answer.agent_loops import AgentLoop
from dedup.answer.channel import Channel
from dedup.text.loops.detector import LoopEvent
from dedup.version import build_form, version
from dedup_server import exposition

Outcome = Literal["ok", "cut", "healed", "upstream_error", "client_gone", "rejected"]

OTHER = "other"
_MAX_MODELS = 100  # bounds the values of a label: an upstream may list many models
_MAX_MODEL_CHARS = 300
_MAX_CALLED = 50  # of these, names that callers of the guardrail choose

_RATIOS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
_CHARS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_STEPS = (4, 5, 6, 8, 10, 15, 20, 30, 50, 100, 200, 500)
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SHORT_SECONDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
)

# The client adds a `_created` gauge to each series by default; nothing here reads it.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Telemetry:
    """Metrics of one server, in a registry of its own. Unknown models are counted as `other`."""

    def __init__(self, models: Iterable[str] = ()) -> None:
        self.registry = CollectorRegistry()
        self._models: set[str] = set()
        self._children: dict[tuple[str, ...], Any] = {}
        self.learn(models)
        self._declare()

    def learn(self, models: Iterable[str]) -> None:
        """Add values of the label `model`."""
        for model in models:
            if len(self._models) < _MAX_MODELS and len(model) <= _MAX_MODEL_CHARS:
                self._models.add(model)

    def learn_called(self, model: str) -> None:
        """Add a value of the label `model` that a caller chose, if there are few."""
        if len(self._models) < _MAX_CALLED:
            self.learn([model])

    def model_label(self, model: str | None) -> str:
        """Return the value of the label `model`."""
        return model if model in self._models else OTHER

    def exposition(self) -> bytes:
        """Return the metrics of all workers in Prometheus's text format."""
        return exposition.of(self.registry)

    def count(self, name: str, amount: float, *labels: str) -> None:
        """Add to a counter."""
        if amount:
            self._child(name, labels).inc(amount)

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add an observation to a histogram."""
        self._child(name, labels).observe(value)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._child(name, labels).set(value)

    def add(self, name: str, amount: float, *labels: str) -> None:
        """Add to a gauge; a negative amount subtracts."""
        self._child(name, labels).inc(amount)

    def count_channel(self, channel: Channel, model: str, *, is_delivered: bool) -> None:
        """Count what became of a text. `is_delivered`: a reader got it."""
        name = channel.name
        if is_delivered:
            self.count("output_chars", channel.chars_out, model, name)
        if channel.has_failed:
            self.count("filter_failures", 1, model)
            return
        numbers = channel.metrics()
        for verdict in ("kept", "removed", "flagged"):
            self.count("sentences", numbers[f"sentences_{verdict}"], model, name, verdict)
        self.count("removed_chars", numbers["removed_chars"], model, name)
        if channel.filter.config.policy != "off" and channel.filter.chars_in:
            self.observe("repetition_ratio", numbers["rep_4"], model, name)
        for loop in channel.healed:
            self._count_loop(loop, model, name, "healed")
        if channel.loop:
            action = "cut" if channel.is_cut else "flagged"
            self._count_loop(channel.loop, model, name, action)

    def count_turn(
        self, loop: AgentLoop, action: str | None, has_recovered: bool | None, model: str
    ) -> None:
        """Count the turn of an agent in a loop; `action` is None if the agent has left the loop."""
        if action is None:
            return
        self.count("agent_loops", 1, model, loop.kind, action)
        self.count("agent_loop_tokens", loop.last_tokens, model)
        self.observe("agent_loop_steps", loop.steps, model)
        if has_recovered is not None:
            outcome = "recovered" if has_recovered else "repeated"
            self.count("agent_nudges", 1, model, outcome)

    def _count_loop(self, loop: LoopEvent, model: str, name: str, action: str) -> None:
        self.count("loops", 1, model, name, loop.kind, action)
        self.observe("loop_detection_chars", loop.detected_at - loop.onset, model)

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        key = (name, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._metrics[name].labels(*labels)
        return child

    def _declare(self) -> None:
        self._metrics: dict[str, MetricWrapperBase] = {}

        def counter(name: str, text: str, *labels: str) -> None:
            self._metrics[name] = Counter(
                f"dedup_{name}_total", text, labels, registry=self.registry
            )

        def gauge(
            name: str,
            text: str,
            mode: Literal["livesum", "livemostrecent", "livemax"],
            *labels: str,
        ) -> None:
            gauge = Gauge(
                f"dedup_{name}", text, labels, registry=self.registry, multiprocess_mode=mode
            )
            self._metrics[name] = gauge

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> None:
            self._metrics[name] = Histogram(
                f"dedup_{name}", text, labels, registry=self.registry, buckets=buckets
            )

        counter("requests", "Requests by outcome.", "model", "endpoint", "outcome")
        counter(
            "sentences",
            "Sentences, lines and list items by verdict.",
            "model",
            "channel",
            "verdict",
        )
        counter("output_chars", "Characters sent to clients.", "model", "channel")
        counter("removed_chars", "Characters removed as repetition.", "model", "channel")
        counter("loops", "Repetition loops detected.", "model", "channel", "kind", "action")
        counter("tokens", "Tokens; estimated if an engine does not report them.", "model", "type")
        counter(
            "heal_attempts",
            "Attempts to continue a completion differently after a loop.",
            "model",
        )
        counter("heal_discarded_chars", "Characters generated in loops that were healed.", "model")
        counter(
            "agent_loops",
            "Answers that went on with a loop of tool calls, by what was done at most.",
            "model",
            "kind",
            "action",
        )
        counter(
            "agent_loop_tokens",
            "Tokens of steps that repeated earlier ones: text, arguments and results; estimated.",
            "model",
        )
        counter(
            "agent_nudges",
            "Answers for which an agent in a loop was asked again, by what came of it.",
            "model",
            "outcome",
        )
        counter("filter_failures", "Texts sent unfiltered because the filter failed.", "model")
        counter(
            "upstream_requests",
            "Requests sent to the upstream by status code, or error.",
            "upstream",
            "code",
        )
        text = "Time from a loop's detection to the next text, of all attempts of a response."
        histogram("heal_seconds", text, _SECONDS, "model")
        text = "Share of repeated 4-grams in a response before filtering."
        histogram("repetition_ratio", text, _RATIOS, "model", "channel")
        histogram(
            "loop_detection_chars",
            "Characters between a loop's onset and its detection.",
            _CHARS,
            "model",
        )
        text = "Steps in an agent's loop when an answer went on with it."
        histogram("agent_loop_steps", text, _STEPS, "model")
        text = "Longest time that a response's text was held, or nothing came of it."
        histogram("hold_seconds", text, _SECONDS, "model")
        histogram("overhead_seconds", "Time spent filtering a response.", _SHORT_SECONDS, "model")
        text = "Time from request to the first text; only of responses that the engine streams."
        histogram("time_to_first_token_seconds", text, _SECONDS, "model")
        histogram(
            "request_duration_seconds",
            "Time from a request to the end of its response.",
            _SECONDS,
            "model",
        )
        gauge("streams_in_progress", "Responses in progress.", "livesum", "model")
        gauge(
            "upstream_up",
            "1 if the upstream responded to the last probe, else 0.",
            "livemostrecent",
            "upstream",
        )
        gauge(
            "build_info",
            "The running version and its form, compiled or interpreted; always 1.",
            "livemax",
            "version",
            "form",
        )
        self.set("build_info", 1, version(), build_form())
        text = "Time at which the server started and its counters began, in Unix time."
        name = "dedup_start_time_seconds"
        started = Gauge(name, text, registry=self.registry, multiprocess_mode="min")
        started.set_to_current_time()
        self._metrics["start_time_seconds"] = started
