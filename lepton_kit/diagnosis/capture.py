"""Freezes an incident of a service into a recording, so that its diagnosis never touches the live system.

What is read: the prediction log, the log lines, the versions that were in service, the registry, and the samples of a
source of telemetry. A recording is bounded in size; what was left out for that, what was cut, and what was not found
stands in its provenance. Where a part is missing the recording is made without it: half the evidence of an incident
is better than none.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pydantic

from lepton_kit.diagnosis.notes import CHECKSUMS_BROKEN, CHECKSUMS_HOLD
from lepton_kit.errors import InputError
from lepton_kit.models.forecasters import FILES, FORECAST, load_forecaster
from lepton_kit.models.registry import COMPRESSED_FROM, Registry
from lepton_kit.serving.config import ServiceConfig
from lepton_kit.serving.control import read_wish
from lepton_kit.serving.metrics import metric_names
from lepton_kit.serving.requestlog import read_requests
from lepton_kit.telemetry.declaration import FORECASTER
from lepton_kit.telemetry.recordings import (
    FEATURE,
    FORMAT,
    LOG_COLUMNS,
    METRIC_COLUMNS,
    Alert,
    Deployment,
    Incident,
    Promise,
    Provenance,
    Recording,
    Versions,
    Window,
    flat_fields,
    log_lines,
    printable,
    read_recording,
    write_recording,
)
from lepton_kit.telemetry.selectors import Source

MOST_REQUESTS, MOST_SAMPLES, MOST_LINES, MOST_REFERENCE, MOST_ALERTS = 100_000, 500_000, 20_000, 2_000, 50
"""Rows of each part that a recording holds at most; together some 30 MB as compressed Parquet and JSON."""

RECENT = 200
"""The version that answered most of this many last requests is the one in service."""


@dataclass
class _Notes:
    """How each part came to be, for the provenance."""

    measured: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)


def capture(
    service: Path,
    source: Source,
    registry: Path,
    start: float,
    end: float,
    folder: Path,
    alerts: Sequence[Mapping[str, Any]] = (),
    match: Mapping[str, str] | None = None,
    promises: Sequence[Promise] = (),
) -> Recording:
    """Freeze an incident of a service into a new recording.

    Parameters
    ----------
    service
        The folder of the service's state, `services/<name>`.
    source
        Where the samples of its metrics are.
    registry
        The folder of the model registry.
    start, end
        The window, Unix seconds, both included.
    folder
        The recording to write, whole or not at all; one that is there is replaced. Its name, or that of the folder
        around it where it is called `recording`, becomes the incident's id.
    alerts
        The alerts that led here, each as in the `alerts` of an Alertmanager webhook (version 4).
    match
        The labels that the service's series carry; its name as `job` or `service` unless given.
    promises
        The service's objectives.

    Returns
    -------
    Recording
        As `read_recording(folder)` gives it.

    Raises
    ------
    InputError
        When there is no such service, the window is empty, an alert is not one, or nothing tells which version was in
        service.
    """
    if not (math.isfinite(start) and math.isfinite(end) and start < end):
        raise InputError(f"window from {start} to {end}: must be two times in Unix seconds, the first one earlier")
    if not service.is_dir():
        raise InputError(f"{service}: no such folder; `lepton serve` makes it for a service")
    notes = _Notes()
    config = _service_config(service)
    logged = _prediction_log(service, start, end, notes)
    deployments = _deployments(service, logged, end, notes)
    versions = _versions(service, Registry(registry), config.model, logged, deployments, notes)
    recording = Recording(
        incident=Incident(
            format=FORMAT,
            id=folder.parent.name if re.fullmatch(r"recording(-\d+)?", folder.name) else folder.name,
            service=config.name,
            declaration=FORECASTER,
            window=Window(start=_utc(start), end=_utc(end)),
            versions=versions,
            alerts=_alerts(alerts, notes),
            deployments=deployments,
            promises=tuple(promises),
        ),
        requests=_thinned(_request_rows(logged), MOST_REQUESTS, "requests", notes),
        metrics=_samples(source, config.name, match, start, end, notes),
        reference=_reference(Registry(registry), config.model, versions.current, notes),
        logs=_log_lines(service, start, end, notes),
    )
    with tempfile.TemporaryDirectory() as scratch:
        models = _models(Registry(registry), config.model, versions, Path(scratch), notes)
        return _write(recording, models, notes, folder)


def _write(recording: Recording, models: Mapping[str, Path], notes: _Notes, folder: Path) -> Recording:
    provenance = Provenance(measured=tuple(notes.measured), derived=tuple(notes.derived))
    incident = recording.incident.model_copy(update={"provenance": provenance})
    folder.parent.mkdir(parents=True, exist_ok=True)
    parts = {name: getattr(recording, name) for name in ("requests", "metrics", "reference", "logs")}
    write_recording(Recording(incident=incident, models=models, **parts), folder)
    return read_recording(folder)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _service_config(service: Path) -> ServiceConfig:
    """Return the settings that the service was started with; without them the model has the service's name."""
    path = service / "service.json"
    if not path.is_file():
        return ServiceConfig(name=service.name, model=service.name, registry=Path(), folder=service)
    try:
        return ServiceConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not the settings of a service ({printable(str(error), 200)})") from error


# --- requests ---------------------------------------------------------------------------------------------------------


def _prediction_log(service: Path, start: float, end: float, notes: _Notes) -> pd.DataFrame:
    try:
        logged = read_requests(service / "requests", start, end)
        logged = logged.reindex(columns=list(dict.fromkeys([*logged, *FORECAST])))  # absent where nothing was answered
    except InputError as error:
        notes.measured.append(f"no requests: {_without_folder(error, service)}")
        return pd.DataFrame()
    answers = int(logged["mean"].notna().sum())
    notes.measured.append(
        f"requests: {len(logged)} rows of the service's prediction log, {answers} of them answered, "
        f"{int(logged['actual'].notna().sum())} with an actual that came back as feedback"
    )
    return logged


def _request_rows(logged: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the prediction log as `requests.parquet` holds them."""
    if logged.empty:
        return logged
    in_batch = logged.groupby("request_id")["row"].transform("max") > 0
    numbered = logged["request_id"] + "#" + logged["row"].astype(str)
    features = [name for name in logged if str(name).startswith(FEATURE)]
    head = {
        "time": logged["time"].dt.as_unit("us"),
        "request_id": logged["request_id"].where(~in_batch, numbered),
        "version": logged["version"],
        "status": logged["status"].astype(float),
        "latency_ms": logged["latency_ms"].astype(float),
    }
    told = logged["comment"].fillna("").map(printable)
    # Before the first feedback the log's columns hold nothing, and are of no type.
    tail = {"actual": logged["actual"].astype(float), "rating": logged["rating"].astype(float), "feedback": told}
    parts = [pd.DataFrame(head), logged[[*features, *FORECAST]].astype(float), pd.DataFrame(tail)]
    rows: pd.DataFrame = pd.concat(parts, axis=1)
    return rows


def _thinned(table: pd.DataFrame, most: int, what: str, notes: _Notes) -> pd.DataFrame:
    """Keep every n-th row, so that shares and times stay what they were."""
    step = max(1, math.ceil(len(table) / most))
    if step > 1:
        notes.derived.append(f"{what}: 1 in {step} of {len(table)} rows is kept")
    return table.iloc[::step]


# --- versions and deployments -----------------------------------------------------------------------------------------


def _versions(
    service: Path,
    registry: Registry,
    model: str,
    logged: pd.DataFrame,
    deployments: Sequence[Deployment],
    notes: _Notes,
) -> Versions:
    """Say which version was in service at the end of the window, and which one was good before it.

    What was answered, or failed, since the last deployment counts: one that fails may have answered little as yet.
    """
    handled = logged[logged["version"].fillna("") != ""] if len(logged) else logged
    newest = handled[handled["time"] >= deployments[-1].time] if len(handled) and deployments else handled
    recent = (newest if len(newest) else handled).tail(RECENT)
    if len(recent):
        current = str(recent["version"].mode().iloc[-1])
        notes.derived.append(f"version in service: {current} took most of the last {len(recent)} requests")
    else:
        current = read_wish(service).version
        notes.derived.append(f"version in service: {current}, as control.json says; none answered in the window")
    try:
        last_good = registry.incumbent(model, current)
        notes.derived.append(
            f"last good version: {last_good}, promoted before and not rolled back"
            if last_good
            else f"no last good version: the registry knows no promotion but that of {current}"
        )
    except InputError as error:
        last_good = None
        notes.derived.append(f"no last good version: {_without_folder(error, registry.root)}")
    return Versions(current=current, last_good=last_good, stands_in_for=_teacher(registry, model, current, notes))


def _teacher(registry: Registry, model: str, version: str, notes: _Notes) -> str | None:
    """Return the version that a compressed one was made from, by its card."""
    try:
        teacher = registry.card(model, version).get(COMPRESSED_FROM)
    except InputError as error:
        notes.derived.append(
            f"whether {version} stands in for another: unknown ({_without_folder(error, registry.root)})"
        )
        return None
    if teacher:
        notes.derived.append(f"{version} stands in for {teacher}: its card says that it was compressed from it")
    return str(teacher) if teacher else None


def _deployments(service: Path, logged: pd.DataFrame, end: float, notes: _Notes) -> tuple[Deployment, ...]:
    """Return what the service's deployment record says, or else what the prediction log shows."""
    path = service / "deployments.jsonl"
    if path.is_file():
        known, damaged = [], 0
        for line in log_lines(path):
            found = _deployment(line)
            damaged += found is None
            if found is not None and found.time <= _utc(end):
                known.append(found)
        known.sort(key=lambda item: item.time)
        known = [
            item for item, last in zip(known, [None, *known], strict=False) if not last or last.version != item.version
        ]
        notes.measured.append(
            f"deployments: {len(known)} changes of the version in the service's record"
            + _damaged(damaged, "which cannot be read")
        )
        return tuple(known[-MOST_ALERTS:])
    observed = _observed_deployments(logged)
    notes.derived.append(
        "deployments: no record of them; "
        + (f"{len(observed)} seen in the prediction log" if observed else "one version answered all the time")
    )
    return observed


def _deployment(line: bytes) -> Deployment | None:
    entry = _object(line)
    if entry is None:
        return None
    try:
        return Deployment.model_validate(
            {"time": entry.get("time"), "version": entry.get("version"), "note": str(entry.get("note", ""))}
        )
    except pydantic.ValidationError:
        return None


def _observed_deployments(logged: pd.DataFrame) -> tuple[Deployment, ...]:
    """Return when each version that did not answer at first gave its first answer."""
    if logged.empty:
        return ()
    firsts = logged.groupby("version")["time"].min().sort_values().iloc[1:]
    return tuple(
        Deployment(time=pd.Timestamp(time).to_pydatetime(), version=str(version), note="its first request in the log")
        for version, time in firsts.items()
    )


def _reference(registry: Registry, model: str, version: str, notes: _Notes) -> pd.DataFrame:
    try:
        kept = registry.reference(model, version)
    except InputError as error:
        notes.derived.append(f"no reference rows: {_without_folder(error, registry.root)}")
        return pd.DataFrame()
    if kept is None:
        notes.derived.append(f"no reference rows: {model} {version} was saved without rows that it learnt from")
        return pd.DataFrame()
    notes.measured.append(f"reference: {len(kept)} training rows, as the registry keeps them with {model} {version}")
    return _thinned(kept, MOST_REFERENCE, "reference", notes)


def _models(registry: Registry, model: str, versions: Versions, scratch: Path, notes: _Notes) -> dict[str, Path]:
    """Copy the files of the versions to replay through; one that cannot be loaded is left out, and named."""
    held: dict[str, Path] = {}
    damaged: list[str] = []
    for version in dict.fromkeys(one for one in (versions.current, versions.last_good) if one):
        try:
            source = registry.folder(model, version)
            (scratch / version).mkdir()
            for name in FILES:
                shutil.copy(source / name, scratch / version / name)
            load_forecaster(scratch / version)
        except (InputError, OSError) as error:
            notes.derived.append(f"models/{version}: left out ({_without_folder(error, registry.root)})")
            continue
        held[version] = scratch / version
        try:
            registry.verify(model, version)
        except InputError as error:
            damaged.append(version)
            notes.derived.append(f"models/{version}: {CHECKSUMS_BROKEN} ({_without_folder(error, registry.root)})")
    if held:
        compared = "" if damaged else f"; {CHECKSUMS_HOLD}"
        notes.measured.append(f"models: {', '.join(held)}, copied from the registry{compared}")
    return held


# --- metrics ----------------------------------------------------------------------------------------------------------


def _samples(
    source: Source, service: str, match: Mapping[str, str] | None, start: float, end: float, notes: _Notes
) -> pd.DataFrame:
    """Return the samples of the service's series; where there are none, of those that carry no service's name."""
    parts = [source.query(name, start, end) for name in ("up", *metric_names())]
    found = [part for part in parts if len(part)] or [pd.DataFrame(columns=list(METRIC_COLUMNS))]
    table: pd.DataFrame = pd.concat(found, ignore_index=True)[list(METRIC_COLUMNS)]
    held = {text: json.loads(text) for text in table["labels"].unique()}
    own = [text for text, labels in held.items() if _is_of(labels, service, match)]
    nameless = [text for text, labels in held.items() if not {"job", "service"} & labels.keys()]
    kept = table[table["labels"].isin(own or nameless)]
    if kept.empty:
        notes.measured.append("no metrics: the source holds no sample of them in the window")
        return pd.DataFrame(columns=list(METRIC_COLUMNS))
    series = kept.groupby(["metric", "labels"]).ngroups
    whose = f"job or service {service}" if own else "no named service: none of them is named so"
    notes.measured.append(f"metrics: {len(kept)} samples of {series} series of {whose}")
    step = math.ceil(len(kept) / MOST_SAMPLES)
    if step > 1:
        kept = kept[kept.groupby(["metric", "labels"]).cumcount() % step == 0]
        notes.derived.append(f"metrics: 1 in {step} samples of each series is kept")
    return kept.assign(time=kept["time"].dt.as_unit("us")).sort_values("time", kind="stable", ignore_index=True)


def _is_of(labels: Mapping[str, str], service: str, match: Mapping[str, str] | None) -> bool:
    by_name = service in (labels.get("job"), labels.get("service"))
    return by_name if not match else match.items() <= labels.items()


# --- log lines --------------------------------------------------------------------------------------------------------


def _log_lines(service: Path, start: float, end: float, notes: _Notes) -> pd.DataFrame:
    """Return the log lines of the window; of too many, all but the INFO lines are kept before those."""
    counts: Counter[str] = Counter()
    window = pd.Timestamp(_utc(start)), pd.Timestamp(_utc(end))
    paths = [path for name in ("service.1.jsonl", "service.jsonl") if (path := service / name).is_file()]
    entries = [entry for path in paths for entry in _entries(path, *window, counts)]
    if not entries:
        notes.measured.append("no log lines in the window" + _damaged(counts["damaged"], "damaged"))
        return pd.DataFrame(columns=list(LOG_COLUMNS))
    notes.measured.append(f"logs: {len(entries)} lines of the service" + _damaged(counts["damaged"], "damaged"))
    table = pd.DataFrame(entries, columns=list(LOG_COLUMNS)).sort_values("time", kind="stable", ignore_index=True)
    is_info = table["level"] == "INFO"
    telling = _thinned(table[~is_info], MOST_LINES // 2, "log lines above INFO", notes)
    usual = _thinned(table[is_info], MOST_LINES - len(telling), "log lines of level INFO", notes)
    return pd.concat([telling, usual]).sort_values("time", kind="stable", ignore_index=True)


def _entries(path: Path, start: pd.Timestamp, end: pd.Timestamp, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    for line in log_lines(path):
        entry = _object(line)
        time = _time(entry.get("time")) if entry is not None else None
        if entry is None or time is None:
            counts["damaged"] += 1
        elif start <= time <= end:
            fields = entry.get("fields")
            yield {
                "time": time,
                "level": printable(str(entry.get("level", "")), 20),
                "message": printable(str(entry.get("message", ""))),
                "fields": json.dumps(flat_fields(fields if isinstance(fields, dict) else {})),
            }


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _time(text: Any) -> pd.Timestamp | None:
    try:
        time = pd.Timestamp(str(text))
    except (ValueError, OverflowError):
        return None
    return None if pd.isna(time) or time.tzinfo is None else time.tz_convert("UTC")


# --- alerts -----------------------------------------------------------------------------------------------------------


def _alerts(given: Sequence[Mapping[str, Any]], notes: _Notes) -> tuple[Alert, ...]:
    if len(given) > MOST_ALERTS:
        notes.derived.append(f"alerts: the first {MOST_ALERTS} of {len(given)}")
    return tuple(_alert(one) for one in given[:MOST_ALERTS])


def _alert(given: Mapping[str, Any]) -> Alert:
    labels = given.get("labels") or {}
    try:
        return Alert.model_validate(
            {
                "name": labels.get("alertname", "unnamed"),
                "starts_at": given.get("startsAt"),
                "labels": labels,
                "annotations": given.get("annotations") or {},
            }
        )
    except (pydantic.ValidationError, AttributeError) as error:
        shown = printable(repr(dict(given)), 120)
        raise InputError(f"alert {shown}: needs labels, annotations and startsAt as Alertmanager sends them") from error


def _damaged(count: int, what: str) -> str:
    return f"; {count} lines {what} are left out" if count else ""


def _without_folder(error: Exception, folder: Path) -> str:
    """Return an error's words without the path of this machine."""
    return printable(
        str(error).replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "").replace(str(folder), folder.name), 200
    )
