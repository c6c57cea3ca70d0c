"""The state of the watch in the words of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgecnn.watch.status import Status

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


STATES: Final = ("starting", "watching", "source lost", "ended", "stopped")


class StatusCollector(Collector):
    """Turns the status of the moment into metrics; between two questions it costs nothing.

    Units and names follow Prometheus, "Metric and label naming": base units, ``_total`` for counters.
    """

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Give every metric of one status, so that they belong together."""
        status = self._status()
        yield CounterMetricFamily("edgecnn_frames", "Frames looked at.", value=status.frames_count)
        yield CounterMetricFamily(
            "edgecnn_frames_skipped", "Frames that came while another was looked at.",
            value=status.skipped_count,
        )  # fmt: skip
        yield CounterMetricFamily("edgecnn_incidents", "Alarms that started.", value=status.incidents_count)
        yield _gauge("edgecnn_frames_per_second", "Frames looked at, over the last seconds.", status.fps)
        yield _gauge("edgecnn_frame_age_seconds", "Age of the last frame at its decision.", _s(status.age_ms))
        yield _gauge("edgecnn_start_time_seconds", "When the watch started.", status.started_utc_s)
        yield _gauge("edgecnn_temperature_celsius", "Of the processor.", status.temperature_celsius)
        yield _gauge("edgecnn_throttled", "Whether the processor is held back.", status.throttled)
        yield _stages(status)
        yield _scores(status)
        yield _states(status)
        yield _faults(status)
        yield _model(status)


def registry(status: Callable[[], Status]) -> CollectorRegistry:
    """Make a registry of the watch and of its process: memory, descriptors, processor time."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    ProcessCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """Write the metrics of this moment in the text format."""
    return generate_latest(registry)


def _gauge(name: str, text: str, value: float | bool | None) -> Metric:
    """Make a gauge; what was not measured has no sample, because 0 would be a lie."""
    gauge = GaugeMetricFamily(name, text)
    if value is not None:
        gauge.add_metric([], float(value))
    return gauge


def _s(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def _stages(status: Status) -> Metric:
    gauge = GaugeMetricFamily(
        "edgecnn_stage_seconds", "Where the time of the last prediction went.", labels=["stage"]
    )
    if status.times is not None:
        gauge.add_metric(["resize"], status.times.resize_ms / 1e3)
        gauge.add_metric(["invoke"], status.times.invoke_ms / 1e3)
        gauge.add_metric(["decode"], status.times.decode_ms / 1e3)
    return gauge


def _scores(status: Status) -> Metric:
    gauge = GaugeMetricFamily("edgecnn_score", "Scores of the last frame.", labels=["head", "label"])
    for head, labels in status.scores.items():
        for label, score in labels.items():
            gauge.add_metric([head, label], score)
    return gauge


def _states(status: Status) -> Metric:
    gauge = GaugeMetricFamily("edgecnn_state", "1 for the state that holds.", labels=["state"])
    for state in STATES:
        gauge.add_metric([state], float(state == status.state))
    return gauge


def _faults(status: Status) -> Metric:
    gauge = GaugeMetricFamily(
        "edgecnn_fault_start_time_seconds",
        "Since when a fault lasts; none when all is well.",
        labels=["fault"],
    )
    for fault in status.faults:
        gauge.add_metric([fault.name], fault.since_utc_s)
    return gauge


def _model(status: Status) -> Metric:
    gauge = GaugeMetricFamily("edgecnn_model_info", "The model that is watching.", labels=["name", "sha256"])
    gauge.add_metric([status.model_name, status.model_sha256], 1.0)
    return gauge
