r"""Plain PromQL series selectors, such as `http_requests_total{route="/v1/predict",status!~"5.."}`, and their sources.

Only what names series is understood: a metric and matchers of its labels. Functions, ranges, offsets, arithmetic and
`{__name__="…"}` are refused with an `InputError`, so that the embedded store and a Prometheus read the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from lepton_kit.errors import InputError

if TYPE_CHECKING:  # settings read selectors, and every command reads settings: pandas takes a third of a second
    import pandas as pd

METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
SAMPLE_COLUMNS = ("time", "metric", "labels", "value")

_OPERATOR = re.compile(r"=~|!~|!=|=")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|`[^`]*`')
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)")
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"', "'": "'"}
_NOT_RE2 = re.compile(r"(?:\\.|[^\\])*?(\(\?(?:=|!|<=|<!|>|\(|P=|#)|\\[1-9]|[*+?}]\+)", re.DOTALL)


class Source(Protocol):
    """Whatever answers a selector with samples: the embedded store, or a Prometheus."""

    def query(self, selector: str, start: float, end: float) -> pd.DataFrame:
        """Return the raw samples of the selected series from `start` to `end` (Unix seconds, both included).

        Returns
        -------
        DataFrame
            Columns `time` (UTC, milliseconds), `metric`, `labels` (JSON text as `labels_text` writes it) and `value`,
            in order of metric, labels and time; empty where no series is selected.
        """
        ...


@dataclass(frozen=True)
class Matcher:
    """One condition on a label: `=`, `!=`, `=~` or `!~`; an absent label counts as empty."""

    label: str
    operator: str
    value: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Say whether labels meet the condition; a regular expression must match the whole value.

        >>> Matcher("status", "!~", "5..|429").matches({"status": "200"})
        True
        """
        return self._test(labels.get(self.label, ""))

    @cached_property
    def _test(self) -> Callable[[str], bool]:
        if self.operator == "=":
            return lambda value: value == self.value
        if self.operator == "!=":
            return lambda value: value != self.value
        whole = re.compile(self.value, re.ASCII).fullmatch  # RE2's \d and \w are ASCII
        if self.operator == "=~":
            return lambda value: whole(value) is not None
        return lambda value: whole(value) is None

    def __str__(self) -> str:
        label = self.label if LABEL.fullmatch(self.label) else _quoted(self.label)
        return f"{label}{self.operator}{_quoted(self.value)}"


@dataclass(frozen=True)
class Selector:
    """A metric and the conditions on its labels; as text it is PromQL again."""

    metric: str
    matchers: tuple[Matcher, ...] = ()

    def matches(self, metric: str, labels: Mapping[str, str]) -> bool:
        """Say whether a series is selected."""
        return metric == self.metric and all(matcher.matches(labels) for matcher in self.matchers)

    def of(self, samples: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a table (`metric`, `labels` as JSON text, …) whose series are selected."""
        named = samples[samples["metric"] == self.metric]
        labels = [text for text in named["labels"].unique() if self.matches(self.metric, json.loads(text))]
        return named[named["labels"].isin(labels)]

    def within(self, labels: Mapping[str, str]) -> Selector:
        """Return the selector narrowed to series with these labels; a label that it matches already stays as it is.

        >>> str(parse_selector('errors_total{code="500"}').within({"job": "goog", "code": "404"}))
        'errors_total{code="500",job="goog"}'
        """
        known = {matcher.label for matcher in self.matchers}
        more = (Matcher(label, "=", value) for label, value in labels.items() if label not in known)
        return Selector(self.metric, (*self.matchers, *more))

    def __str__(self) -> str:
        is_plain = METRIC.fullmatch(self.metric) is not None
        inner = ([] if is_plain else [_quoted(self.metric)]) + [str(matcher) for matcher in self.matchers]
        return (self.metric if is_plain else "") + ("{" + ",".join(inner) + "}" if inner else "")


def parse_selector(text: str) -> Selector:
    r"""Read a selector.

    Raises
    ------
    InputError
        When the text is anything else than a plain selector, or a regular expression is not one that Prometheus
        (RE2) has, such as a look-ahead.

    Examples
    --------
    >>> selector = parse_selector('requests_total{route="/v1", status=~"2.."}')
    >>> selector.matches("requests_total", {"route": "/v1", "status": "204"})
    True
    >>> str(selector)
    'requests_total{route="/v1",status=~"2.."}'
    >>> parse_selector('{"http.requests", "status.code"="500"}').matches("http.requests", {"status.code": "500"})
    True
    >>> parse_selector("rate(requests_total[5m])")
    Traceback (most recent call last):
        ...
    lepton_kit.errors.InputError: selector 'rate(requests_total[5m])': '(requests_total[5m])' is not ...
    """
    reader = _Reader(text)
    metric = "" if reader.rest.startswith("{") else reader.take(METRIC, "the name of a metric")
    matchers: tuple[Matcher, ...] = ()
    if reader.skip("{"):
        if not metric:  # a name beyond letters and digits, as Prometheus 3 writes it
            metric = _unquoted(reader.take(_STRING, "the quoted name of a metric"), reader)
            reader.skip(",")
        matchers = _read_matchers(reader)
    if reader.rest:
        raise reader.error("the end of the selector; functions, ranges and offsets are not plain selectors")
    return Selector(metric, matchers)


def labels_text(labels: Mapping[str, str]) -> str:
    """Return labels as canonical JSON text: sorted by name, without the empty ones, no spaces.

    >>> labels_text({"route": "/", "job": "goog", "none": ""})
    '{"job":"goog","route":"/"}'
    """
    kept = {name: value for name, value in labels.items() if value}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class _Reader:
    """A place in a text; spaces are passed over."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.rest = text.strip()

    def take(self, pattern: re.Pattern[str], wanted: str) -> str:
        found = pattern.match(self.rest)
        if found is None:
            raise self.error(wanted)
        self.rest = self.rest[found.end() :].lstrip()
        return found[0]

    def skip(self, mark: str) -> bool:
        found = self.rest.startswith(mark)
        self.rest = self.rest[len(mark) :].lstrip() if found else self.rest
        return found

    def error(self, wanted: str) -> InputError:
        return InputError(f"selector {self.text!r}: {self.rest[:40]!r} is not {wanted}")


def _read_matchers(reader: _Reader) -> tuple[Matcher, ...]:
    matchers: list[Matcher] = []
    while not reader.skip("}"):
        if matchers:
            reader.take(re.compile(","), "a ',' or a '}' after a label's matcher")
            if reader.skip("}"):
                break
        matchers.append(_read_matcher(reader))
    return tuple(matchers)


def _read_matcher(reader: _Reader) -> Matcher:
    label = (
        _unquoted(reader.take(_STRING, "the name of a label"), reader)
        if reader.rest[:1] in ('"', "'", "`")
        else reader.take(LABEL, "the name of a label")
    )
    if label == "__name__":
        raise InputError(f"selector {reader.text!r}: __name__ is not supported; write the metric before the braces")
    operator = reader.take(_OPERATOR, "one of = != =~ !~")
    value = _unquoted(reader.take(_STRING, "a quoted value"), reader)
    if operator in ("=~", "!~"):
        _check_expression(value, reader)
    return Matcher(label, operator, value)


def _check_expression(expression: str, reader: _Reader) -> None:
    if found := _NOT_RE2.match(expression):
        raise InputError(
            f"selector {reader.text!r}: {found[1]!r} in {expression!r} is not in Prometheus' language (RE2)"
        )
    try:
        re.compile(expression, re.ASCII)
    except re.error as error:
        raise InputError(f"selector {reader.text!r}: {expression!r} is not a regular expression ({error})") from error


def _unquoted(literal: str, reader: _Reader) -> str:
    if literal[0] == "`":
        return literal[1:-1]
    return _ESCAPE.sub(lambda found: _unescaped(found[1], reader), literal[1:-1])


def _unescaped(escape: str, reader: _Reader) -> str:
    if len(escape) > 1:
        return chr(int(escape[1:], 16) if escape[0] in "xuU" else int(escape, 8))
    if escape not in _ESCAPED:
        raise InputError(
            f"selector {reader.text!r}: \\{escape} is not an escape of PromQL; a backslash is written \\\\"
        )
    return _ESCAPED[escape]


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
