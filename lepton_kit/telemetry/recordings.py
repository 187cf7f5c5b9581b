"""Recordings: the evidence of one incident, frozen in a folder, so that its diagnosis can be replayed for ever.

The section "What a recording holds" of docs/incidents.md is its format. Only `incident.json` must be there; whatever
else is absent is named in `Recording.absent`, and a diagnosis says what it could not check. What is there must be
readable. All text of it is untrusted: control characters are made visible on reading; what shows it still escapes it.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic

from lepton_kit.errors import InputError
from lepton_kit.models.tasks import NOT_NUMERIC, Task, task_of
from lepton_kit.telemetry import columns
from lepton_kit.telemetry.declaration import signals_of
from lepton_kit.telemetry.incident import (
    FORMAT,
    FORMER,
    Alert,
    Deployment,
    Incident,
    Promise,
    Provenance,
    Version,
    Versions,
    Window,
    printable,
)
from lepton_kit.telemetry.sealed import opened, seal
from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.signals import ROLES, Signal, from_json, to_json

__all__ = [
    "FEATURE", "FORMAT", "FORMER", "LOG_COLUMNS", "METRIC_COLUMNS", "TOPOLOGY_COLUMNS", "Alert", "Deployment",
    "Incident", "Promise", "Provenance", "Recording", "Version", "Versions", "Window", "feature_columns",
    "flat_fields", "is_inside", "printable", "read_recording", "write_recording",
]  # fmt: skip

FEATURE = "feature_"
REQUEST_COLUMNS = ("time", "request_id", "version", "status", "latency_ms", "actual")
"""Of every recording; beside them the columns of its task's answers, and features."""

METRIC_COLUMNS = ("time", "metric", "labels", "value")
LOG_COLUMNS = ("time", "level", "message", "fields")
TOPOLOGY_COLUMNS = ("caller", "callee")
NUMERIC_REQUEST_COLUMNS = ("status", "latency_ms", "actual")
TEXT_COLUMNS = ("request_id", "version")

LONGEST_LINE = 64 * 1024
"""A log line of more bytes is not read."""

MOST_FIELDS, LONGEST_FIELD = 20, 200
"""How many fields of a log line are recorded, and how many characters of each."""


def feature_columns(requests: pd.DataFrame) -> list[str]:
    """Return the names of the columns that hold what the service was given."""
    return [column for column in map(str, requests.columns) if column.startswith(FEATURE)]


def _empty(columns: tuple[str, ...]) -> pd.DataFrame:
    dtypes = {"time": "datetime64[us, UTC]", **dict.fromkeys((*NUMERIC_REQUEST_COLUMNS, "value"), "float64")}
    return pd.DataFrame({column: pd.Series(dtype=dtypes.get(column, "str")) for column in columns})


@dataclass(frozen=True)
class Recording:
    """One incident's evidence.

    A table whose file is absent or not readable is empty, and the file is named in `absent`. `problems` says what could
    not be read, or looks wrong, and why. `signals` are those that it was captured by, else those of its declaration.

    Examples
    --------
    >>> incident = Incident(format=FORMAT, id="x", service="demo", versions={"current": "1"},
    ...                     window={"start": "2008-01-01T00:00Z", "end": "2008-02-01T00:00Z"})
    >>> recording = Recording(incident)
    >>> len(recording.requests), list(recording.features(recording.requests))
    (0, [])
    """

    incident: Incident
    requests: pd.DataFrame = field(default_factory=lambda: _empty(REQUEST_COLUMNS))
    metrics: pd.DataFrame = field(default_factory=lambda: _empty(METRIC_COLUMNS))
    reference: pd.DataFrame = field(default_factory=pd.DataFrame)
    logs: pd.DataFrame = field(default_factory=lambda: _empty(LOG_COLUMNS))
    topology: pd.DataFrame = field(default_factory=lambda: _empty(TOPOLOGY_COLUMNS))
    models: Mapping[str, Path] = field(default_factory=dict)
    signals: Mapping[str, Signal] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.signals:
            object.__setattr__(self, "signals", signals_of(self.incident.declaration))

    def samples(self, role: str, part: str = "value") -> pd.DataFrame:
        """Return the samples of a signal in the unit of its role, as `metrics` has them; of a histogram one `part`.

        Empty where it is not declared, or nothing of it was recorded; `lacking` says which.
        """
        signal = self.signals.get(role)
        text = signal.parts(ROLES[role].kind).get(part) if signal else None
        if signal is None or text is None:
            return self.metrics.head(0)
        held = parse_selector(text).of(self.metrics)
        return held if part in ("count", "bucket") else held.assign(value=held["value"] * signal.scale)

    def lacking(self, *roles: str) -> str:
        """Say which of some signals are not declared, or not in the recording; nothing where all are there."""
        said = []
        for role in roles:
            if role not in self.signals:
                said.append(f"no signal `{role}` is declared")
            elif self.samples(role, "count" if ROLES[role].kind == "histogram" else "value").empty:
                said.append(f"no sample of signal `{role}` ({self.signals[role].selector}) was recorded")
        return "; ".join(said)

    @property
    def task(self) -> Task | None:
        """What the service's model does; None where its declaration does not say."""
        name = self.incident.declaration.task
        return None if name is None else task_of(name)

    def features(self, requests: pd.DataFrame) -> pd.DataFrame:
        """Return the numeric features of some requests under the names the model knows, indexed by request time.

        The others are `categories`; both together are `inputs`.
        """
        return self.inputs(requests).select_dtypes(["number", "bool"])

    def categories(self, requests: pd.DataFrame) -> pd.DataFrame:
        """Return the features that hold text, under the names the model knows, indexed by request time."""
        return self.inputs(requests).select_dtypes(exclude=["number", "bool"])

    @staticmethod
    def inputs(requests: pd.DataFrame) -> pd.DataFrame:
        """Return all features of some requests under the names the model knows, indexed by request time."""
        columns = {column: column.removeprefix(FEATURE) for column in feature_columns(requests)}
        return requests.set_index("time")[list(columns)].rename(columns=columns)


def read_recording(folder: Path | str) -> Recording:
    """Read a recording; whatever of it cannot be read is left out, and named.

    Half the evidence of an incident is better than none, so only `incident.json` must be readable. A file that is not
    there is named in `absent`; so is one that is not readable, with the reason in `problems`, where also stands what
    was left out of a file: log lines that are none, values that are no numbers, times without a zone. Rows outside of
    the incident's window stay, and are named: their clock may be wrong.

    Requests, metrics and logs come in order of time.

    Raises
    ------
    InputError
        When there is no such folder, or it has no readable `incident.json`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a recording is a folder with an incident.json")
    reader = _Reader(folder, _read_incident(folder / "incident.json"))
    return Recording(
        incident=reader.incident,
        requests=reader.read("requests.parquet", reader.requests, _empty(REQUEST_COLUMNS)),
        metrics=reader.read("metrics.parquet", reader.metrics, _empty(METRIC_COLUMNS)),
        reference=reader.read("reference.parquet", reader.reference, pd.DataFrame()),
        logs=reader.read("logs.jsonl", reader.logs, _empty(LOG_COLUMNS)),
        topology=reader.read("topology.csv", reader.topology, _empty(TOPOLOGY_COLUMNS)),
        models=reader.models(),
        signals=reader.signals(),
        absent=tuple(reader.absent),
        problems=tuple(map(printable, reader.problems)),
    )


SLACK = 0.05
"""So much of the window's length a time may lie outside of it: a log line just before the first request is no fault."""


def is_inside(times: pd.Series, window: Window) -> pd.Series:
    """Tell for each time whether it lies in a window, or so little outside that no clock is wrong."""
    slack = SLACK * (window.end - window.start)
    first, last = (one.replace(tzinfo=UTC) for one in (datetime.min, datetime.max))
    start = max(window.start, first + slack) - slack  # the first and the last year have no room for slack
    return times.between(pd.Timestamp(start), pd.Timestamp(min(window.end, last - slack) + slack))


def write_recording(
    recording: Recording, folder: Path | str, truth: Mapping[str, Any] | None = None, key: str | None = None
) -> Path:
    """Write a recording whole or not at all, replacing what is there, and return its folder.

    An empty table leaves no file, which is how `read_recording` would say that it is absent. `truth` is what was really
    done, for drills and benchmarks; it becomes `truth.json`. `key` says where the key is (`env:NAME`, `file:PATH`) that
    all but the models are encrypted with. The folder's parent must be there.
    """
    folder = Path(folder)
    if not folder.parent.is_dir():
        raise InputError(f"{folder}: no folder {folder.parent} to put the recording into")
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write_parts(recording, temporary / "new")
        if truth is not None:
            _write_json(temporary / "new" / "truth.json", truth)
        if key is not None:
            seal(temporary / "new", key)
        if folder.exists():
            folder.rename(temporary / "old")
        (temporary / "new").rename(folder)
    finally:
        shutil.rmtree(temporary)
    return folder


def _read_incident(path: Path) -> Incident:
    if not path.is_file():
        raise InputError(f"{path}: no such file; every recording has an incident.json")
    try:
        incident = Incident.model_validate(_read_json(path))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        given = printable(repr(first["input"]), 80)
        raise InputError(f"{path}: {place} = {given}: {first['msg']}") from error
    if incident.window.end <= incident.window.start:
        raise InputError(f"{path}: window.end = {incident.window.end}: must be after {incident.window.start}")
    return incident


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with opened(path) as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; it must be a JSON object")
    return content


class _Reader:
    """Reads the files of a recording one by one, and notes what was absent, and what was wrong."""

    def __init__(self, folder: Path, incident: Incident) -> None:
        self.folder, self.incident = folder, incident
        self.absent: list[str] = []
        self.problems = list(incident.problems)

    def read(self, name: str, reader: Callable[[Path], pd.DataFrame], nothing: pd.DataFrame) -> pd.DataFrame:
        """Return a part, or nothing where it is absent or not readable."""
        if not (self.folder / name).exists():
            self.absent.append(name)
            return nothing
        try:
            table = reader(self.folder / name)
        except InputError as error:
            self.absent.append(name)
            self.problems.append(str(error).replace(f"{self.folder}/", ""))
            return nothing
        outside = int((~is_inside(table["time"], self.incident.window)).sum()) if "time" in table else 0
        if outside:
            self.problems.append(
                f"{name}: {outside} of {len(table)} rows lie outside of the window: the clock may be wrong"
            )
        return table

    def requests(self, path: Path) -> pd.DataFrame:
        """Read the requests; a column that is absent is empty, but for their time, without which nothing is known."""
        table = self._in_order_of_time(_parquet(path), path)
        declared = self.incident.declaration
        task = None if declared.task is None else task_of(declared.task)
        wanted = REQUEST_COLUMNS if task is None else (*REQUEST_COLUMNS, *task.required)
        if lacking := [column for column in wanted if column not in table]:
            known = ", ".join(map(str, table.columns))
            self.problems.append(f"{path.name}: lacks column {', '.join(lacking)}; it has {known}")
        numbered = table.index.astype(str)  # an id of its own for each: none is asked twice
        table = table.assign(**{name: numbered if name == "request_id" else np.nan for name in lacking})
        numeric = [name for name in ("status", "latency_ms", "rating") if name in table]
        classes: list[str] = []
        if task is not None:
            numeric += [*task.numeric(table), *(["actual"] if task.has_numeric_target else [])]
            classes = [name for name in NOT_NUMERIC if name in task.columns(table)]
        texts = [*TEXT_COLUMNS, *classes]
        told = {name: table[name].astype("object").where(table[name].notna(), "").astype(str) for name in texts}
        told |= {name: told[name].replace("", None) for name in classes}  # an answer that failed has no class
        table = columns.with_numbers(table.assign(**told), numeric, path.name, self.problems)
        categorical = declared.columns.categorical
        return columns.with_inputs(table, feature_columns(table), categorical, path.name, self.problems, FEATURE)

    def metrics(self, path: Path) -> pd.DataFrame:
        """Read the samples whose labels are a JSON object."""
        table = _parquet(path)
        _check_columns(table, METRIC_COLUMNS, path)
        table = columns.with_numbers(self._in_order_of_time(table, path), ["value"], path.name, self.problems)
        named = table["labels"].isin([text for text in table["labels"].unique() if object_of(text) is not None])
        if lost := int((~named).sum()):
            self.problems.append(f"{path.name}: {lost} of {len(table)} rows have labels that are no JSON object")
        return table[named].reset_index(drop=True).astype({"metric": "str"})

    def reference(self, path: Path) -> pd.DataFrame:
        """Read the rows that the model learnt from."""
        table, categorical = _parquet(path).rename(columns=str), self.incident.declaration.columns.categorical
        return columns.with_inputs(table, list(table.columns), categorical, path.name, self.problems)

    def logs(self, path: Path) -> pd.DataFrame:
        """Read the log lines that are an object with a time, level and message."""
        entries = [_log_entry(line) for line in _lines(path)]
        if damaged := [number for number, entry in enumerate(entries, 1) if entry is None]:
            self.problems.append(
                f"{path.name}: {len(damaged)} of {len(entries)} lines are no object with a time (and its zone), level "
                f"and message, or longer than {LONGEST_LINE} bytes, and are left out; the first is line {damaged[0]}"
            )
        known = [entry for entry in entries if entry is not None]
        table = pd.DataFrame(known, columns=list(LOG_COLUMNS)) if known else _empty(LOG_COLUMNS)
        return table.sort_values("time", kind="stable", ignore_index=True)

    def topology(self, path: Path) -> pd.DataFrame:
        """Read who calls whom."""
        try:
            with opened(path) as file:
                table = pd.read_csv(file, dtype=str)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not readable as CSV ({printable(str(error), 200)})") from error
        _check_columns(table, TOPOLOGY_COLUMNS, path)
        return table

    def models(self) -> dict[str, Path]:
        """Return the folders of the versions that there are."""
        versions = self.incident.versions
        places = {one: self.folder / "models" / one for one in (versions.current, versions.last_good) if one}
        self.absent += [f"models/{version}" for version, place in places.items() if not place.is_dir()]
        return {version: place for version, place in places.items() if place.is_dir()}

    def signals(self) -> dict[str, Signal]:
        """Return the signals as captured; nothing where there are none, as in the former format, or not readable."""
        path = self.folder / "signals.json"
        try:
            return from_json(_read_json(path)) if path.exists() else {}
        except InputError as error:
            self.problems.append(f"{path.name}: {printable(str(error).replace(f'{self.folder}/', ''), 200)}")
            return {}

    def _in_order_of_time(self, table: pd.DataFrame, path: Path) -> pd.DataFrame:
        _check_columns(table, ("time",), path)
        time = table["time"]
        if not isinstance(time.dtype, pd.DatetimeTZDtype):
            raise InputError(f"{path}: column time holds {time.dtype}; it must hold timestamps in UTC")
        if lost := int(time.isna().sum()):
            self.problems.append(f"{path.name}: {lost} of {len(table)} rows have no time, and are left out")
        dated = table.assign(time=time.dt.tz_convert("UTC"))[time.notna()]
        return dated.sort_values("time", kind="stable", ignore_index=True)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        with opened(path) as file:
            return pd.read_parquet(file)
    except (OSError, ValueError, NotImplementedError, KeyError, TypeError) as error:  # what pyarrow's errors are
        raise InputError(f"{path}: not readable as Parquet ({printable(str(error), 200)})") from error


def object_of(value: Any) -> dict[str, Any] | None:
    """Return an object, or the one that a text holds; None of anything else."""
    try:
        entry = json.loads(value) if isinstance(value, str | bytes) else value
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _check_columns(table: pd.DataFrame, names: tuple[str, ...], path: Path) -> None:
    if missing := [column for column in names if column not in table.columns]:
        raise InputError(f"{path}: lacks column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file that hold anything; one above `LONGEST_LINE` bytes as a `?`, which is none."""
    try:
        with opened(path) as file:
            while line := file.readline(LONGEST_LINE):
                is_whole = line.endswith(b"\n") or len(line) < LONGEST_LINE
                while not is_whole and (rest := file.readline(LONGEST_LINE)):
                    is_whole, line = rest.endswith(b"\n"), b"?"
                if line.strip():
                    yield line
    except OSError as error:
        raise InputError(f"{path}: not readable ({error})") from error


def _log_entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        time = pd.Timestamp(entry["time"])
        texts = {key: printable(str(entry[key])) for key in ("level", "message")}
        fields = entry.get("fields")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    if pd.isna(time) or time.tzinfo is None:
        return None
    told = json.dumps(flat_fields(fields if isinstance(fields, dict) else {}))
    return {"time": time.tz_convert("UTC"), **texts, "fields": told}


def flat_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return at most `MOST_FIELDS` fields with short names and values; whatever is not a number becomes text."""
    return {
        printable(str(name), 60): value
        if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
        else printable(str(value), LONGEST_FIELD)
        for name, value in itertools.islice(fields.items(), MOST_FIELDS)
    }


def _write_parts(recording: Recording, folder: Path) -> None:
    folder.mkdir()
    _write_json(folder / "incident.json", recording.incident.model_dump(mode="json"))
    if recording.incident.format != FORMER:
        _write_json(folder / "signals.json", to_json(recording.signals))
    for name in ("requests", "metrics", "reference"):
        table: pd.DataFrame = getattr(recording, name)
        if len(table):
            table.to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")
    if len(recording.logs):
        lines = [json.dumps(_log_line(entry), ensure_ascii=False) for entry in recording.logs.to_dict("records")]
        (folder / "logs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if len(recording.topology):
        recording.topology.to_csv(folder / "topology.csv", index=False)
    for version, source in recording.models.items():
        shutil.copytree(source, folder / "models" / version)


def _log_line(entry: dict[Any, Any]) -> dict[str, Any]:
    time = entry["time"].isoformat().replace("+00:00", "Z")
    return {"time": time, "level": entry["level"], "message": entry["message"], "fields": json.loads(entry["fields"])}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
