"""A service's requests with what came true of them, its deployments and topology, as its declaration names them.

Requests come out with the columns of a recording, whatever they are called where they lie. What is absent is missing,
and is not guessed; what cannot be what its role says is missing, and named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.models.tasks import PROBA
from lepton_kit.telemetry.columns import is_category
from lepton_kit.telemetry.databases import TIME, Read, Window, flat, utc
from lepton_kit.telemetry.declaration import Columns, Declaration, Metric, Rows, short_name
from lepton_kit.telemetry.recordings import FEATURE, TOPOLOGY_COLUMNS, object_of, printable
from lepton_kit.telemetry.rows import read_rows
from lepton_kit.telemetry.selectors import Source, parse_selector
from lepton_kit.telemetry.texts import DESCRIPTORS, described

TIMES = ("time", "timestamp", "ts", "@timestamp", "asctime", "datetime")
MOST_REQUESTS = 100_000
MOST_LABELS = 2_000_000
"""How many label rows are searched for those of the recorded requests."""


@dataclass
class _Table:
    """A table in the making: what it is made from, and what was wrong with that."""

    raw: pd.DataFrame
    what: str
    problems: list[str] = field(default_factory=list)

    def column(self, name: str | None, role: str) -> pd.Series | None:
        """Return a declared column; None where none is declared, or it is absent, which is a problem."""
        if name is None:
            return None
        if name not in self.raw:
            known = ", ".join(str(one) for one in list(self.raw)[:20] if one != TIME)
            self.problems.append(f"{self.what}: no column {name!r} (columns.{role}); there are {known}")
            return None
        column: pd.Series = self.raw[name]
        return column

    def numbers(self, name: str | None, role: str, low: float = -np.inf, high: float = np.inf) -> pd.Series:
        """Return a column of numbers from `low` to `high`; what is none of them is missing, and counted."""
        found = self.column(name, role)
        if found is None:
            return self.missing()
        numbers = pd.to_numeric(found, errors="coerce").astype(float)
        wrong = found.notna() & ~numbers.between(low, high)
        if count := int(wrong.sum()):
            within = "" if low == -np.inf else f" from {low:g} on" if high == np.inf else f" from {low:g} to {high:g}"
            self.problems.append(
                f"{self.what}: {count} of {len(found)} values of {name!r} (columns.{role}) are no numbers{within}"
            )
        return numbers.mask(wrong)

    def texts(self, name: str | None, role: str) -> pd.Series:
        """Return a column of text; empty where there is none."""
        found = self.column(name, role)
        if found is None:
            return pd.Series("", index=self.raw.index)
        whole = found.map(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
        return whole.astype("object").where(found.notna(), "").map(lambda value: printable(str(value)))

    def missing(self) -> pd.Series:
        """Return a column without a value."""
        return pd.Series(np.nan, index=self.raw.index)


def read_requests(declaration: Declaration, project: Path, start: float, end: float) -> Read:
    """Read the requests of a window (Unix seconds) with the columns of a recording, and what came true of them.

    Of more than `MOST_REQUESTS` rows every n-th is kept. Empty where no requests are declared, or none can be read.
    """
    read = raw_requests(declaration, project, start, end)
    made = canonical(read.table, declaration)
    return Read(made.table, (*read.problems, *made.problems), read.total, read.step)


def raw_requests(declaration: Declaration, project: Path, start: float, end: float, most: int = MOST_REQUESTS) -> Read:
    """Read the requests of a window, and their labels, under the names that they have where they lie."""
    columns = declaration.columns
    wanted = [*_named(columns), *declaration.private, *([declaration.labels.key] if declaration.labels else ())]
    window = Window(start, end, most)
    read = read_rows(declaration.requests, project, columns.timestamp, window, wanted, "requests")
    if read.table.empty:
        return read
    table = _Table(_with_objects(read.table, wanted), "requests", list(read.problems))
    _drop_repeated(table, columns)
    if declaration.labels is not None:
        _add_labels(table, declaration, project, window)
    return Read(table.raw, tuple(table.problems), read.total, read.step)


def _named(columns: Columns) -> list[str]:
    """Return the columns and patterns that a declaration names."""
    given = columns.model_dump(exclude={"positive"})
    names = [value if isinstance(value, list | tuple) else (value,) for value in given.values() if value is not None]
    return [name for held in names for name in held]


def _with_objects(raw: pd.DataFrame, wanted: Sequence[str]) -> pd.DataFrame:
    """Return a table in which the JSON text of an object became columns, where a role names fields of it."""
    for name in {one.partition(".")[0] for one in wanted if "." in one} & set(map(str, raw)):
        objects = [object_of(value) or {} for value in raw[name]]
        fields = pd.DataFrame([flat(one, f"{name}.") for one in objects], index=raw.index)
        raw = pd.concat([raw.drop(columns=name), fields], axis=1)
    return raw


def _drop_repeated(table: _Table, columns: Columns) -> None:
    """Drop rows that were written twice, and name ids that two requests have."""
    if columns.id is None or columns.id not in table.raw:
        return
    ids = table.raw[columns.id].astype(str)
    twice = pd.DataFrame({"id": ids, "time": table.raw[TIME]}).duplicated()
    if count := int(twice.sum()):
        table.problems.append(f"requests: {count} rows repeat the id and time of another, and are left out")
        table.raw = table.raw[~twice].reset_index(drop=True)
    if shared := int(ids[~twice].duplicated().sum()):
        table.problems.append(f"requests: {shared} ids belong to more than one request; the target counts for each")


# --- what came true ---------------------------------------------------------------------------------------------------

TARGET, TARGET_TIME, RATING, FEEDBACK = "__target", "__target_time", "__rating", "__feedback"


def _add_labels(table: _Table, declaration: Declaration, project: Path, window: Window) -> None:
    """Join what came true to the requests; the last that is known of a key counts."""
    labels = declaration.labels
    assert labels is not None
    key = labels.key if labels.key in table.raw else declaration.columns.id
    if key is None or key not in table.raw:
        table.problems.append(f"labels: their key {labels.key!r} is no column of the requests")
        return
    roles = {TARGET: labels.target, TARGET_TIME: labels.timestamp, RATING: labels.rating, FEEDBACK: labels.feedback}
    named = {role: name for role, name in roles.items() if name is not None}
    read = read_rows(
        [Rows.model_validate(labels.model_dump(include=set(Rows.model_fields)))],
        project,
        None,
        Window(window.start, window.end, MOST_LABELS),
        [labels.key, *named.values()],
        "labels",
    )
    table.problems += read.problems
    found = read.table
    if found.empty:
        return
    if absent := [name for name in (labels.key, *named.values()) if name not in found]:
        known = ", ".join(str(one) for one in found if one != TIME)
        table.problems.append(f"labels: no column {', '.join(absent)}; there are {known}")
        if labels.key in absent:
            return
    held = found[[labels.key]].astype(str).set_axis(["__key"], axis=1)
    for role, name in named.items():
        if name in found:
            held[role] = utc(found[name], labels.timezone) if role == TARGET_TIME else found[name]
    held = held[held["__key"].isin(table.raw[key].astype(str))]
    if TARGET_TIME in held:
        held = held.sort_values(TARGET_TIME, kind="stable")
    several = held.duplicated("__key", keep="last")
    if TARGET in held and (told := int((held.groupby("__key")[TARGET].nunique() > 1).sum())):
        table.problems.append(f"labels: {told} keys have more than one target; the last one counts")
    joined = table.raw.assign(__key=table.raw[key].astype(str)).merge(held[~several], on="__key", how="left")
    table.raw = joined.drop(columns="__key")


# --- the columns of a recording ---------------------------------------------------------------------------------------


def canonical(raw: pd.DataFrame, declaration: Declaration, known: Mapping[str, pd.Series] | None = None) -> Read:
    """Return requests under the names that a recording gives their columns.

    >>> raw = pd.DataFrame({"__time": pd.to_datetime(["2026-01-01"], utc=True), "y": ["yes"], "p": 0.7, "x.age": 40})
    >>> columns = {"features": "x.*", "prediction_probas": "p", "target": "y", "positive": "yes"}
    >>> declared = Declaration.model_validate({"task": "classification_binary", "columns": columns})
    >>> canonical(raw, declared).table[["feature_age", "proba", "actual"]].values.tolist()
    [[40.0, 0.7, 1.0]]
    """
    if raw.empty:
        return Read(pd.DataFrame())
    table, columns = _Table(raw, "requests"), declaration.columns
    made: dict[str, pd.Series] = {
        "time": raw[TIME],
        "request_id": table.texts(columns.id, "id") if columns.id else pd.Series(map(str, raw.index), raw.index),
        "version": table.texts(columns.version, "version"),
        "status": table.numbers(columns.status, "status", 100, 599),
        "latency_ms": table.numbers(columns.latency_ms, "latency_ms", 0),
    }
    made |= _features(table, columns, known or {})
    made |= _prediction(table, declaration)
    labelled = declaration.labels is not None
    made["actual"] = _actual(table, declaration, TARGET if labelled and TARGET in raw else columns.target)
    if TARGET_TIME in raw:
        made["actual_time"] = raw[TARGET_TIME]
    if rating := RATING if RATING in raw else columns.rating:
        made["rating"] = table.numbers(rating, "rating", 0, 100)
    if feedback := FEEDBACK if FEEDBACK in raw else columns.feedback:
        made["feedback"] = table.texts(feedback, "feedback")
    if declaration.task == "text" and columns.target is None and TARGET not in raw and "rating" in made:
        made["actual"] = made["rating"]  # a text is judged by its readers
    return Read(pd.DataFrame(made), tuple(table.problems), len(raw))


def _features(table: _Table, columns: Columns, known: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    made: dict[str, pd.Series] = {}
    others = set(_named(columns.model_copy(update={"features": (), "categorical": (), "text": ()})))
    for pattern in dict.fromkeys((*columns.features, *columns.categorical, *columns.text)):
        found = [name for name in map(str, table.raw) if fnmatchcase(name, pattern) and not name.startswith("__")]
        found = [name for name in found if name not in others]
        if not found:
            table.problems.append(f"requests: no column {pattern!r} (columns.features); there are {_known(table.raw)}")
        for name in found:
            short = short_name(name, columns)
            if _is_one_of(name, short, columns.text):
                made |= described(table.raw[name], f"{FEATURE}{short}", known.get(short))
            elif _is_one_of(name, short, columns.categorical):
                made[f"{FEATURE}{short}"] = table.texts(name, "categorical").replace("", None)
            else:
                made[f"{FEATURE}{short}"] = _feature(table, name)
    return made


def _is_one_of(name: str, short: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(short, pattern) for pattern in patterns)


def _feature(table: _Table, name: str) -> pd.Series:
    """Return a feature as numbers, or as text where its first values are text."""
    if is_category(table.raw[name]):
        return table.texts(name, "features").replace("", None)
    return table.numbers(name, "features")


def _known(raw: pd.DataFrame) -> str:
    return ", ".join([str(name) for name in raw if not str(name).startswith("__")][:20])


def _prediction(table: _Table, declaration: Declaration) -> dict[str, pd.Series]:
    """Return what was answered under the names of the task's columns; nothing where no task is declared."""
    columns, task = declaration.columns, declaration.task
    if task == "classification_binary":
        label = {"label": table.texts(columns.prediction_labels, "prediction_labels").replace("", None)}
        proba = next(iter(columns.prediction_probas), None)
        return {"proba": table.numbers(proba, "prediction_probas", 0, 1)} | (label if columns.prediction_labels else {})
    if task == "classification_multiclass":
        return _classes(table, columns)
    if task == "ranking":
        found = table.column(columns.prediction, "prediction")
        return {} if found is None else {"prediction": found.map(_items)}
    if task == "text":
        return _descriptors(table, columns)
    if task is None:
        return {}
    interval = ("lower", "upper", "mean", "std") if task == "interval_forecast" else ("lower", "upper")
    made = {name: table.numbers(getattr(columns, name), name) for name in interval if getattr(columns, name)}
    if task == "regression":
        made["prediction"] = table.numbers(columns.prediction, "prediction")
    elif columns.prediction_probas:
        made["prob_up"] = table.numbers(columns.prediction_probas[0], "prediction_probas", 0, 1)
    if {"lower", "upper"} <= made.keys() and (crossed := int((made["lower"] > made["upper"]).sum())):
        table.problems.append(f"requests: {crossed} intervals end below where they begin (columns.lower, .upper)")
    return made


def _descriptors(table: _Table, columns: Columns) -> dict[str, pd.Series]:
    """Return what is known of texts that were answered: from the text, its number of tokens, or as it was logged."""
    if columns.prediction and "*" in columns.prediction:
        found = [name for name in map(str, table.raw) if fnmatchcase(name, columns.prediction)]
        return {name.rpartition(".")[2]: table.raw[name] for name in found if name.rpartition(".")[2] in DESCRIPTORS}
    answers = table.column(columns.prediction, "prediction")
    if answers is None:
        return {}
    return {"tokens": answers.astype(float)} if pd.api.types.is_numeric_dtype(answers) else described(answers, "", None)


def _classes(table: _Table, columns: Columns) -> dict[str, pd.Series]:
    made: dict[str, pd.Series] = {}
    for pattern in columns.prediction_probas:
        before = pattern.partition("*")[0]
        found = [name for name in map(str, table.raw) if fnmatchcase(name, pattern)]
        if not found:
            table.column(pattern, "prediction_probas")
        for name in found:
            one = name.removeprefix(before) if before != pattern else name.rpartition(".")[2]
            made[f"{PROBA}{one.removeprefix(PROBA)}"] = table.numbers(name, "prediction_probas", 0, 1)
    label = table.texts(columns.prediction_labels, "prediction_labels").replace("", None)
    if columns.prediction_labels is None and made:
        probable = pd.DataFrame(made).rename(columns=lambda name: name.removeprefix(PROBA))
        label = probable.fillna(-1).idxmax(axis=1).astype("str").where(probable.notna().any(axis=1), None)
    return {"label": label, **made}


def _items(value: Any) -> list[str] | None:
    try:
        items = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        items = value.split(",")
    return [str(one) for one in items] if isinstance(items, list | tuple | np.ndarray) else None


def _actual(table: _Table, declaration: Declaration, name: str | None) -> pd.Series:
    """Return what came true: 1 or 0 of the positive class, a class, an item, or a number."""
    task = declaration.task
    if task == "classification_binary":
        found = table.column(name, "target")
        if found is None:
            return table.missing()
        values, positive = found.map(_plain), str(_plain(declaration.columns.positive))
        if (others := values[values.notna() & values.ne(positive)].nunique()) > 1:
            table.problems.append(
                f"requests: {name!r} (columns.target) holds {others} values beside the positive {positive!r}; they "
                "count as one class"
            )
        if values.notna().any() and not values.eq(positive).any():
            table.problems.append(
                f"requests: no row's target is {positive!r} (columns.positive); there are "
                f"{', '.join(map(repr, values.dropna().unique()[:5]))}"
            )
        return values.eq(positive).astype(float).where(values.notna())
    if task in ("classification_multiclass", "ranking"):
        return table.texts(name, "target").replace("", None) if name else table.missing().astype("object")
    return table.numbers(name, "target")


def _plain(value: Any) -> str | None:
    """Return a value so that 1, 1.0, True and "1" are the same."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


# --- deployments and topology -----------------------------------------------------------------------------------------


def read_deployments(
    declaration: Declaration, project: Path, source: Source | None, series: Mapping[str, str], start: float, end: float
) -> tuple[list[tuple[pd.Timestamp, str, str]], list[str]]:
    """Read when which version went into service, oldest first: from a file of JSON lines, or a metric's label.

    Of a metric only a version that comes to be after others is a deployment: the first one seen was there before.

    Returns
    -------
    tuple
        Time, version and note of each deployment up to `end`; and what is wrong with where they are.
    """
    where = declaration.deployments
    if isinstance(where, Metric):
        return _seen_in(where, source, series, start, end)
    if where is None:
        return [], []
    read = read_rows([Rows(path=where)], project, None, Window(start, end), ["*"], "deployments")
    table, problems = read.table, list(read.problems)
    time = next((name for name in TIMES if name in table), None)
    if table.empty or time is None or "version" not in table:
        absent = [] if table.empty else ["deployments: lacks a time or a version"]
        return [], problems + absent
    moments, versions = utc(table[time], "UTC"), table["version"]
    known = moments.notna() & versions.map(lambda one: isinstance(one, str) and bool(one))
    if count := int((~known).sum()):
        problems.append(f"deployments: {count} entries have no time or version, and are left out")
    notes = table["note"].fillna("") if "note" in table else pd.Series("", index=table.index)
    found = sorted(zip(moments[known], versions[known], notes[known].map(str), strict=True), key=lambda one: one[0])
    return [one for one in found if one[0].timestamp() <= end], problems


def _seen_in(
    where: Metric, source: Source | None, series: Mapping[str, str], start: float, end: float
) -> tuple[list[tuple[pd.Timestamp, str, str]], list[str]]:
    if source is None:
        return [], []
    samples = source.query(str(parse_selector(where.metric).within(series)), start, end)
    present = samples[samples["value"] > 0] if len(samples) else samples
    if present.empty:
        return [], [f"deployments: the source has no sample of {where.metric} in the window"]
    told = {text: json.loads(text).get(where.label, "") for text in present["labels"].unique()}
    firsts = present["time"].groupby(present["labels"].map(told)).min().sort_values()
    return [(time, str(version), f"seen in {where.metric}") for version, time in firsts.iloc[1:].items() if version], []


def read_topology(declaration: Declaration, project: Path) -> Read:
    """Read which part of a service calls which: `caller`, `callee`."""
    if declaration.topology is None:
        return Read(pd.DataFrame(columns=list(TOPOLOGY_COLUMNS)))
    read = read_rows([Rows(path=declaration.topology)], project, None, Window(0, 0), ["*"], "topology")
    if read.table.empty or (absent := [name for name in TOPOLOGY_COLUMNS if name not in read.table]):
        lacking = (f"topology: no column {', '.join(absent)}",) if len(read.table) else ()
        return Read(pd.DataFrame(columns=list(TOPOLOGY_COLUMNS)), (*read.problems, *lacking))
    return Read(read.table[list(TOPOLOGY_COLUMNS)].dropna().astype(str), read.problems, read.total)
