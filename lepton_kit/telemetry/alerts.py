"""Alerts of objectives, evaluated here: the same labels, annotations and fingerprints as through Prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

from lepton_kit.telemetry.burn_rates import SEVERITIES, Memory, Status, evaluate
from lepton_kit.telemetry.prometheus import Prometheus
from lepton_kit.telemetry.rules import RUNBOOK_URL, alert_annotations, alert_labels
from lepton_kit.telemetry.selectors import Source
from lepton_kit.telemetry.slo import Objective

NOT_ENDED = "0001-01-01T00:00:00Z"
"""What Alertmanager writes for the end of an alert that fires."""

SIDE_BY_SIDE = 8
Alert = dict[str, Any]


class AlertEvaluator:
    """Evaluates objectives again and again, and remembers since when which alert fires.

    All windows are `time_scale` times shorter; `overlap` seconds before the last evaluation are read again, for samples
    that arrive late.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        source: Source,
        time_scale: float = 1.0,
        overlap: float = Memory.OVERLAP,
    ) -> None:
        self.objectives = tuple(objectives)
        self.statuses: tuple[Status, ...] = ()
        """How each objective stood when it was last evaluated."""
        self._source = source
        self._memory = Memory(source, overlap)
        self._time_scale = time_scale
        self._firing: dict[str, Alert] = {}

    def evaluate(self, at: float) -> list[Alert]:
        """Return the alerts that fire at a time (Unix seconds), and once each of those that did before and do no more.

        They are as in `alerts` of an Alertmanager webhook (version 4). An alert of an objective whose samples the
        source refuses stays as it was; `statuses` says why.
        """
        self.statuses = evaluate_all(self.objectives, self._source, at, self._time_scale, self._memory)
        wanted = [self._alert(status.objective, severity, at) for status in self.statuses for severity in status.firing]
        before, self._firing = self._firing, {alert["fingerprint"]: alert for alert in wanted}
        unjudged = self.unjudged()
        self._firing |= {one: alert for one, alert in before.items() if one in unjudged}
        for fingerprint, alert in self._firing.items():
            if fingerprint in before:
                alert["startsAt"] = before[fingerprint]["startsAt"]
        resolved = [
            {**alert, "status": "resolved", "endsAt": time_text(at)}
            for fingerprint, alert in before.items()
            if fingerprint not in self._firing
        ]
        return [*(dict(alert) for alert in self._firing.values()), *resolved]

    def unjudged(self) -> set[str]:
        """Return the fingerprints of the alerts of which nothing is known, since the source refused the samples."""
        refused = [one.objective for one in self.statuses if one.unmeasured and one.unmeasured.reason == "refused"]
        return {fingerprint_of(alert_labels(one, severity)) for one in refused for severity in SEVERITIES}

    def _alert(self, objective: Objective, severity: str, at: float) -> Alert:
        labels = alert_labels(objective, severity)
        return {
            "status": "firing",
            "labels": labels,
            "annotations": alert_annotations(objective, RUNBOOK_URL),
            "startsAt": time_text(at),
            "endsAt": NOT_ENDED,
            "generatorURL": "",
            "fingerprint": fingerprint_of(labels),
        }


def evaluate_all(
    objectives: Sequence[Objective],
    source: Source,
    at: float,
    time_scale: float = 1.0,
    memory: Memory | None = None,
) -> tuple[Status, ...]:
    """Say how each objective stands, as `evaluate` does; a server is asked for several at once, as one may be slow."""
    read = memory or Memory(source)
    ask = partial(evaluate, source=source, at=at, time_scale=time_scale, memory=read)
    if not isinstance(source, Prometheus):
        return tuple(map(ask, objectives))
    with ThreadPoolExecutor(SIDE_BY_SIDE, "objective") as threads:
        return tuple(threads.map(ask, objectives))


def fingerprint_of(labels: Mapping[str, str]) -> str:
    """Return the fingerprint that Alertmanager gives to labels.

    It is FNV-1a (64 bits) over the names and values in order of the names, with a byte 255 behind each:
    `labelSetToFingerprint` in prometheus/common, model/signature.go.

    >>> fingerprint_of({})
    'cbf29ce484222325'
    """
    found = 0xCBF29CE484222325
    for name in sorted(labels):
        for byte in (*name.encode(), 255, *labels[name].encode(), 255):
            found = (found ^ byte) * 0x100000001B3 % 2**64
    return f"{found:016x}"


def time_text(seconds: float) -> str:
    """Return a time as Alertmanager writes it.

    >>> time_text(1.5)
    '1970-01-01T00:00:01.500Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
