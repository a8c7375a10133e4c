"""The metrics in Prometheus's text format, of one process or of all workers."""

import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _OfAllProcesses(Collector):
    """Collector of the counts of all processes.

    Args:
        texts: help of each metric, which the files of counts do not contain.
    """

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        for metric in MultiProcessCollector(None).collect():  # type: ignore[no-untyped-call]
            metric.documentation = self._texts[metric.name]
            yield metric


def of(registry: CollectorRegistry) -> bytes:
    """Return the metrics of a registry, with the counts of all workers where there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(registry)
    of_all = CollectorRegistry()
    texts = {metric.name: metric.documentation for metric in registry.collect()}
    of_all.register(_OfAllProcesses(texts))
    return generate_latest(of_all)
