"""Service level objectives, in OpenSLO v1 (https://openslo.com): `kind: SLO` with a ratio of two counters.

A ratio has `total` and either `good` or `bad`, as in `slo/goog/`; queries are plain selectors of counters, which the
embedded evaluator and Prometheus understand alike. What OpenSLO allows beyond that is refused, with the place named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from lepton_kit.errors import InputError
from lepton_kit.telemetry.declaration import Section
from lepton_kit.telemetry.selectors import Selector, parse_selector

UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
MINIMUM = "lepton-kit/minimum-events"
"""The annotation that says how many events a window must hold before its ratio may raise an alert."""

COUNTS = "lepton-kit/counts"
"""The annotation that says what the events are: `requests`, or `hits`: answers whose target is known, and was met."""


@dataclass(frozen=True)
class Objective:
    """One objective, ready to be evaluated.

    `target` is the part of events (0 to 1) that must be good over `window` seconds; `events` is `good` or `bad`, which
    is what `selector` counts of all that `total` counts. A window with fewer than `minimum` events says nothing.
    """

    name: str
    title: str
    service: str
    description: str
    target: float
    window: int
    events: Literal["good", "bad"]
    selector: Selector
    total: Selector
    minimum: int
    counts: Literal["requests", "hits"] = "requests"

    @property
    def budget(self) -> float:
        """The part of events that may be bad."""
        return 1 - self.target

    @property
    def witness(self) -> Selector | None:
        """The series that show whether good events are counted at all; None where they always count.

        Good events that nothing counts are 0 only where their metric is there, of a histogram with the bucket of their
        bound: else the selector names what the service does not show. Bad events show with the first of them.
        """
        if self.events == "bad" or self.selector.metric == self.total.metric:
            return None
        shared = (one for one in self.selector.matchers if one.label == "le" or one in self.total.matchers)
        return Selector(self.selector.metric, tuple(shared))

    @property
    def series(self) -> tuple[Selector, ...]:
        """All that it takes to measure the objective."""
        return (self.selector, self.total) if self.witness is None else (self.selector, self.total, self.witness)

    def within(self, labels: Mapping[str, str]) -> Objective:
        """Return the objective on the series with these labels alone, such as those of one service."""
        return replace(self, selector=self.selector.within(labels), total=self.total.within(labels))


class _Metadata(Section):
    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    displayName: str = ""  # noqa: N815 - OpenSLO's name
    labels: dict[str, Any] = Field(default={})
    annotations: dict[str, str] = Field(default={})


class _Query(Section):
    query: str


class _Source(Section):
    type: Literal["Prometheus", "prometheus"] = "Prometheus"
    metricSourceRef: str | None = None  # noqa: N815
    spec: _Query


class _Metric(Section):
    metricSource: _Source  # noqa: N815


class _Ratio(Section):
    counter: Literal[True]
    good: _Metric | None = None
    bad: _Metric | None = None
    total: _Metric

    @model_validator(mode="after")
    def _one_of_both(self) -> _Ratio:
        if (self.good is None) == (self.bad is None):
            raise ValueError("needs 'total' and either 'good' or 'bad'")
        return self


class _IndicatorSpec(Section):
    description: str = ""
    ratioMetric: _Ratio  # noqa: N815


class _Indicator(Section):
    metadata: _Metadata | None = None
    spec: _IndicatorSpec


class _Window(Section):
    duration: str = Field(pattern=r"^[1-9][0-9]{0,3}[mhdw]$")
    isRolling: Literal[True]  # noqa: N815


class _Target(Section):
    displayName: str = ""  # noqa: N815
    target: float = Field(gt=0, lt=1)


class _Spec(Section):
    service: str = Field(min_length=1)
    description: str = ""
    indicator: _Indicator
    timeWindow: list[_Window] = Field(min_length=1, max_length=1)  # noqa: N815
    budgetingMethod: Literal["Occurrences"]  # noqa: N815
    objectives: list[_Target] = Field(min_length=1, max_length=1)


class _Document(Section):
    apiVersion: Literal["openslo/v1"]  # noqa: N815
    kind: Literal["SLO"]
    metadata: _Metadata
    spec: _Spec


def alert_name(objective: Objective) -> str:
    """Return the name of an objective's alert.

    >>> from lepton_kit.telemetry.selectors import parse_selector
    >>> alert_name(Objective("goog-latency", "", "goog", "", 0.9, 60, "bad", *2 * [parse_selector("x")], 1))
    'GoogLatencyBudgetBurn'
    """
    return "".join(part.capitalize() for part in objective.name.split("-")) + "BudgetBurn"


def read_objectives(folder: Path) -> list[Objective]:
    """Read all objectives of a folder's `*.yaml` files, in order of their names.

    Raises
    ------
    InputError
        When there is none, a file is not OpenSLO v1 of the kind above, or two objectives have one name.
    """
    paths = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if not paths:
        raise InputError(f"{folder}: holds no objectives (*.yaml)")
    found: dict[str, Objective] = {}
    for path in paths:
        for objective in _read_file(path):
            if objective.name in found:
                raise InputError(f"{path}: objective {objective.name!r} is in another file of {folder} already")
            found[objective.name] = objective
    return [found[name] for name in sorted(found)]


def duration_seconds(text: str) -> int:
    """Return a duration such as `5m` or `28d` in seconds.

    >>> duration_seconds("28d")
    2419200
    """
    matched = re.fullmatch(r"([1-9][0-9]{0,3})([mhdw])", text)
    if matched is None:
        raise InputError(f"duration {text!r}: must be a number with m, h, d or w, such as '28d'")
    return int(matched[1]) * UNITS[matched[2]]


def _read_file(path: Path) -> list[Objective]:
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    return [_objective(document, path) for document in documents if document is not None]


def _objective(document: Any, path: Path) -> Objective:
    try:
        read = _Document.model_validate(document)
        metric = read.spec.indicator.spec.ratioMetric
        counted = metric.good or metric.bad
        assert counted is not None
        return Objective(
            name=read.metadata.name,
            title=read.metadata.displayName or read.metadata.name,
            service=read.spec.service,
            description=" ".join(read.spec.description.split()),
            target=read.spec.objectives[0].target,
            window=duration_seconds(read.spec.timeWindow[0].duration),
            events="good" if metric.good else "bad",
            selector=parse_selector(counted.metricSource.spec.query),
            total=parse_selector(metric.total.metricSource.spec.query),
            minimum=_minimum(read.metadata.annotations),
            counts=_counts(read.metadata.annotations),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise InputError(f"{path}: {where} = {str(first['input'])[:80]!r}: {first['msg']}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _counts(annotations: dict[str, str]) -> Literal["requests", "hits"]:
    given = annotations.get(COUNTS, "requests")
    if given not in ("requests", "hits"):
        raise InputError(f"annotation {COUNTS} = {given!r}: must be 'requests' or 'hits'")
    return "hits" if given == "hits" else "requests"


def _minimum(annotations: dict[str, str]) -> int:
    given = annotations.get(MINIMUM, "10")
    if not given.isdecimal() or not 1 <= int(given) <= 10**9:
        raise InputError(f"annotation {MINIMUM} = {given!r}: must be a whole number from 1")
    return int(given)
