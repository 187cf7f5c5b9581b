"""Signals: what the series of a service tell, by role, so that no question of a service knows its metric names.

A role (`ROLES`) is one thing that telemetry tells, with its unit. A preset (`signals/*.toml`) gives the selectors of a
known server; a declaration names presets, and single selectors above them. A recording keeps those that it was captured
by.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from lepton_kit.errors import InputError
from lepton_kit.telemetry import selectors
from lepton_kit.telemetry.selectors import parse_selector

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True)
class Role:
    """What a signal tells, its unit, and whether it is a level, a sum that only grows, or a distribution."""

    kind: Kind
    unit: str
    meaning: str


ROLES: Mapping[str, Role] = {
    "up": Role("gauge", "0 or 1", "whether the scrape of a target succeeded"),
    "queue_length": Role("gauge", "requests", "requests that wait to be worked on"),
    "running": Role("gauge", "requests", "requests that are being worked on"),
    "workers": Role("gauge", "workers", "workers, replicas or engines that answer"),
    "saturation": Role("gauge", "share", "how full the resource is that runs out first, such as a cache (0 to 1)"),
    "gpu_utilisation": Role("gauge", "share", "part of the time in which a GPU was at work (0 to 1)"),
    "idle_seconds": Role("counter", "s", "time in which a processor was idle, a series for each processor"),
    "busy_seconds": Role("counter", "s", "time in which workers were at work, added up over them"),
    "cpu_seconds": Role("counter", "s", "processor time"),
    "memory": Role("gauge", "bytes", "memory in use, a series for each worker or machine"),
    "gpu_memory": Role("gauge", "bytes", "memory of the GPUs in use"),
    "restarts": Role("counter", "starts", "starts of workers, restarts among them"),
    "start_time": Role("gauge", "s", "when a process was started (Unix time)"),
    "requests_total": Role(
        "counter", "requests", "requests that were answered, and those that were not if it has them"
    ),
    "answered": Role("counter", "requests", "requests that were answered"),
    "errors": Role("counter", "requests", "requests that the service failed"),
    "refusals": Role("counter", "requests", "requests that were refused for the load"),
    "invalid": Role("counter", "requests", "requests that were refused as wrong"),
    "latency": Role("histogram", "s", "time from a request to its answer"),
    "queue_time": Role("histogram", "s", "time that a request waited to be worked on"),
    "service_time": Role("histogram", "s", "time that the model took for a request"),
    "time_to_first_token": Role("histogram", "s", "time from a request to the first token of its answer"),
    "time_per_output_token": Role("histogram", "s", "time from a token of an answer to the next"),
    "newest_data": Role("gauge", "s", "time of the newest data that a request came with (Unix time)"),
    "watched_seconds": Role("counter", "s", "time in which the age of the newest data was known"),
    "stale_seconds": Role("counter", "s", "time in which the newest data were too old"),
    "input_rows": Role("counter", "rows", "rows that were asked for"),
    "input_problems": Role("counter", "values", "values that were wrong, by the label `problem`"),
    "interval_width": Role("histogram", "", "width of the intervals that were answered"),
    "targets_known": Role("counter", "answers", "answers whose target became known, by whether they were right"),
}
"""All that can be declared of a service's telemetry."""


def _selector(text: str) -> str:
    try:
        parse_selector(text)
    except InputError as error:
        raise ValueError(str(error)) from error
    return text


Selector = Annotated[str, AfterValidator(_selector)]


class Signal(BaseModel):
    """The series of one role.

    Parameters
    ----------
    selector
        Which series; of a histogram the name without `_bucket`, `_sum` and `_count`.
    count
        Of a histogram that is two counters: which count the events; `selector` then sums up their values.
    scale
        What a value is multiplied by to be in the unit of the role.
    shared
        Whether the series are the machine's, and carry no label of the service.

    Examples
    --------
    >>> Signal(selector='latency_ms{route="/"}', scale=0.001).parts("histogram")["sum"]
    'latency_ms_sum{route="/"}'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    selector: Selector
    count: Selector | None = None
    scale: float = Field(default=1.0, gt=0)
    shared: bool = False

    def parts(self, kind: Kind) -> dict[str, str]:
        """Return the selectors of the series by what they hold: `value`, or `sum`, `count` and `bucket`."""
        if kind != "histogram":
            return {"value": self.selector}
        if self.count is not None:
            return {"sum": self.selector, "count": self.count}
        base = parse_selector(self.selector)
        return {
            part: str(selectors.Selector(f"{base.metric}_{part}", base.matchers)) for part in ("sum", "count", "bucket")
        }

    def within(self, labels: Mapping[str, str]) -> Signal:
        """Return the signal narrowed to series with these labels, unless they are the machine's."""
        if self.shared:
            return self
        narrowed = {
            name: str(parse_selector(text).within(labels))
            for name in ("selector", "count")
            if (text := getattr(self, name)) is not None
        }
        return self.model_copy(update=narrowed)


def _given(value: Any) -> Any:
    return {"selector": value} if isinstance(value, str) else value


Given = Annotated[Signal, BeforeValidator(_given)]
"""A signal as it may be written: a selector alone, or a table."""

_TABLE = TypeAdapter(dict[str, Given])
FOLDER = Path(__file__).with_suffix("")


def presets() -> tuple[str, ...]:
    """Return the names of the servers whose signals are known.

    >>> {"fastapi", "vllm"} <= {*presets()}
    True
    """
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


@cache
def _file(name: str) -> Mapping[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))


def series_beside(name: str) -> tuple[str, ...]:
    """Return the selectors of series that a preset names beside its signals, such as those that only one server has."""
    return tuple(_file(name).get("more", ()))


@cache
def preset(name: str) -> Mapping[str, Signal]:
    """Return the signals of a known server.

    Raises InputError when no such server is known.
    """
    if name not in presets():
        raise InputError(f"preset of signals {name!r}: must be one of {', '.join(presets())}")
    return _TABLE.validate_python(_file(name)["signals"])


def series_of(signals: Mapping[str, Signal]) -> tuple[str, ...]:
    """Return the selectors of all series that signals need, each once: what a capture asks for."""
    parts = (text for role, one in signals.items() for text in one.parts(ROLES[role].kind).values())
    return tuple(dict.fromkeys(parts))


def role_of(selector: selectors.Selector) -> str:
    """Return the role that the series of a selector have by the signals of a known server.

    Of several, the one that asks for the most of what the selector asks for; empty where none has the metric.

    >>> role_of(parse_selector('http_requests_total{status=~"5..",job="x"}')), role_of(parse_selector("mine"))
    ('errors', '')
    """
    for known in map(preset, presets()):
        fitting = {
            role: sum(one in selector.matchers for one in own.matchers)
            - 2 * len(set(own.matchers) - {*selector.matchers})
            for role, signal in known.items()
            for own in map(parse_selector, signal.parts(ROLES[role].kind).values())
            if own.metric == selector.metric
        }
        if fitting:
            return max(fitting, key=fitting.__getitem__)
    return ""


def to_json(signals: Mapping[str, Signal]) -> dict[str, Any]:
    """Return signals as a recording keeps them."""
    return {role: one.model_dump(exclude_defaults=True) for role, one in signals.items()}


def from_json(content: Mapping[str, Any]) -> dict[str, Signal]:
    """Return signals that a recording kept; roles that are not known are left out.

    Raises InputError when one of them is no signal.
    """
    try:
        return _TABLE.validate_python({role: given for role, given in content.items() if role in ROLES})
    except ValueError as error:
        raise InputError(f"signals: {error}") from error
