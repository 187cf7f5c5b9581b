"""Alerts of objectives: as Prometheus rules, and evaluated here with the same labels, annotations and fingerprints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

import yaml

from lepton_kit.telemetry.burn_rates import SEVERITIES, WINDOWS, BurnWindow, Memory, Status, evaluate, scaled, threshold
from lepton_kit.telemetry.prometheus import Prometheus
from lepton_kit.telemetry.selectors import Source
from lepton_kit.telemetry.slo import Objective, alert_name

RUNBOOK_URL = "http://127.0.0.1:8088/runbooks/{alert}"
"""Where `lepton watch` says what an alert starts."""


def prometheus_rules(objectives: Sequence[Objective], runbook_url: str = RUNBOOK_URL, time_scale: float = 1.0) -> str:
    """Return a rule file (YAML); `{alert}` in the address of the runbooks stands for an alert's name.

    All windows are `time_scale` times shorter; rules are then evaluated as many times more often, at most each second.
    """
    interval = f"{max(1, round(30 / time_scale))}s"
    count = Counter(one.name for one in objectives)  # two services may call theirs the same
    groups = [
        {
            "name": f"slo-{one.name}" if count[one.name] == 1 else f"slo-{one.service}-{one.name}",
            "interval": interval,
            "rules": _rules(one, runbook_url, time_scale),
        }
        for one in objectives
    ]
    text: str = yaml.safe_dump({"groups": groups}, sort_keys=False, width=120, allow_unicode=True)
    return "# Made by `lepton slo rules` from the objectives; change those instead.\n" + text


def _rules(objective: Objective, runbook_url: str, time_scale: float) -> list[dict[str, Any]]:
    labels = {"slo": objective.name, "service": objective.service}
    lengths = sorted({length for window in WINDOWS for length in (window.long, window.short)})
    rules: list[dict[str, Any]] = [
        {"record": _ratio_name(length), "expr": _bad_ratio(objective, scaled(length, time_scale)), "labels": labels}
        for length in lengths
    ]
    rules += [
        {"record": _events_name(length), "expr": _events(objective, scaled(length, time_scale)), "labels": labels}
        for length in sorted({window.long for window in WINDOWS})
    ]
    left = f"1 - ({_bad_ratio(objective, scaled(objective.window, time_scale))}) / {_number(objective.budget)}"
    rules.append({"record": "slo:error_budget:left", "expr": left, "labels": labels})
    return rules + [_alert(objective, severity, runbook_url) for severity in SEVERITIES]


def alert_labels(objective: Objective, severity: str) -> dict[str, str]:
    """Return the labels of an objective's alert, its name among them: the same by whichever evaluator."""
    return {
        "alertname": alert_name(objective),
        "slo": objective.name,
        "service": objective.service,
        "severity": severity,
    }


def alert_annotations(objective: Objective, runbook_url: str) -> dict[str, str]:
    """Return the annotations of an objective's alerts; `{alert}` in the address stands for the alert's name."""
    return {
        "summary": f"{objective.title} of {objective.service}: the error budget burns too fast",
        "description": f"{objective.description} Objective: {objective.target:.6g}.",
        "runbook_url": runbook_url.replace("{alert}", alert_name(objective)),
    }


def _alert(objective: Objective, severity: str, runbook_url: str) -> dict[str, Any]:
    pairs = [_burning(objective, window) for window in WINDOWS if window.severity == severity]
    labels = alert_labels(objective, severity)
    return {
        "alert": labels.pop("alertname"),
        "expr": " or ".join(pairs),
        "labels": labels,
        "annotations": alert_annotations(objective, runbook_url),
    }


def _burning(objective: Objective, window: BurnWindow) -> str:
    chosen = f'{{slo="{objective.name}",service={json.dumps(objective.service, ensure_ascii=False)}}}'
    limit = _number(threshold(objective, window))
    long, short = (f"{_ratio_name(length)}{chosen} > {limit}" for length in (window.long, window.short))
    return f"({long} and {short} and {_events_name(window.long)}{chosen} >= {objective.minimum})"


def _bad_ratio(objective: Objective, seconds: float) -> str:
    """Return the part of bad events; a counter that is absent has counted nothing, where its witness is there."""
    window = _duration(seconds)
    nothing = "vector(0)" if objective.witness is None else f"vector(0) and on () {objective.witness}"
    ratio = f"(sum(increase({objective.selector}[{window}])) or {nothing}) / sum(increase({objective.total}[{window}]))"
    return ratio if objective.events == "bad" else f"1 - {ratio}"


def _events(objective: Objective, seconds: float) -> str:
    return f"sum(increase({objective.total}[{_duration(seconds)}]))"


def _ratio_name(length: int) -> str:
    return f"slo:bad_events:ratio_{window_name(length)}"


def _events_name(length: int) -> str:
    return f"slo:events:increase_{window_name(length)}"


def window_name(length: int) -> str:
    """Return a window's name before it is scaled, such as 5m, so that rules and dashboards look alike in any scale.

    >>> window_name(1800)
    '30m'
    """
    return next(
        f"{length // unit}{mark}" for mark, unit in (("d", 86400), ("h", 3600), ("m", 60)) if length % unit == 0
    )


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms" if seconds % 1 else f"{round(seconds)}s"


def _number(value: float) -> str:
    return f"{value:.12g}"


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
