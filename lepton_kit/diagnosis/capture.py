"""Freezes an incident of a service into a recording, so that its diagnosis never touches the live system.

What is read is what the service's declaration names, and the samples of a source of telemetry: first those that the
objective that alerted counts, then those of the other objectives and of the signals. A recording is bounded in size;
what was left out for that, what was cut, and what was not found stands in its provenance. Where a part is missing the
recording is made without it: half the evidence of an incident is better than none.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pydantic

from lepton_kit.diagnosis.served import Served, as_version, served_models
from lepton_kit.errors import InputError
from lepton_kit.models.flavors import PROFILE
from lepton_kit.secrets import without_password
from lepton_kit.telemetry.databases import TIME, Read
from lepton_kit.telemetry.declaration import Declaration, more_of, signals_of
from lepton_kit.telemetry.logs import MOST_LINES, read_logs
from lepton_kit.telemetry.private import HIDDEN, Private
from lepton_kit.telemetry.readers import MOST_REQUESTS, canonical, raw_requests, read_deployments, read_topology
from lepton_kit.telemetry.recordings import (
    FORMAT,
    METRIC_COLUMNS,
    Alert,
    Deployment,
    Incident,
    Promise,
    Provenance,
    Recording,
    Window,
    printable,
    read_recording,
    write_recording,
)
from lepton_kit.telemetry.selectors import Source
from lepton_kit.telemetry.signals import series_of
from lepton_kit.telemetry.slo import alert_name
from lepton_kit.telemetry.texts import described

MOST_SAMPLES, MOST_REFERENCE, MOST_ALERTS = 500_000, 2_000, 50
"""Rows of each part that a recording holds at most; together some 30 MB as compressed Parquet and JSON."""


def capture(
    name: str,
    declaration: Declaration,
    project: Path,
    source: Source | None,
    start: float,
    end: float,
    folder: Path,
    alerts: Sequence[Mapping[str, Any]] = (),
    promises: Sequence[Promise] = (),
    key: str | None = None,
) -> Recording:
    """Freeze an incident of a service into a new recording.

    Parameters
    ----------
    name, declaration
        The service, and what it says of itself: where its evidence is.
    project
        The folder that paths of the declaration are relative to.
    source
        Where the samples of its metrics are; None where there are none.
    start, end
        The window, Unix seconds, both included.
    folder
        The recording to write, whole or not at all; one that is there is replaced. Its name, or that of the folder
        around it where it is called `recording`, becomes the incident's id.
    alerts
        The alerts that led here, each as in the `alerts` of an Alertmanager webhook (version 4).
    promises
        The service's objectives.
    key
        Where the key is (`env:NAME`, `file:PATH`) that the recording is encrypted with; without it it is not.

    Raises
    ------
    InputError
        When the window is empty, an alert is not one, or the source or the key of private columns cannot be read.
    """
    if not (math.isfinite(start) and math.isfinite(end) and start < end):
        raise InputError(f"window from {start} to {end}: must be two times in Unix seconds, the first one earlier")
    asked = _Capture(name, declaration, project, source, start, end, Private.of(declaration, project))
    told = asked.alerts(alerts)
    raw = asked.raw_requests()
    deployments = asked.deployments(raw)
    with tempfile.TemporaryDirectory() as scratch:
        served = served_models(declaration, project, _handled(raw, declaration, deployments), Path(scratch))
        asked.measured += served.measured
        asked.derived += served.derived
        recording = Recording(
            incident=asked.incident(folder, served, alerts=told, deployments=deployments, promises=tuple(promises)),
            requests=asked.requests(raw, served),
            metrics=asked.samples(told, promises),
            reference=asked.reference(served),
            logs=asked.logs(),
            topology=asked.take(read_topology(declaration, project), "topology"),
            models=asked.models(served),
            signals=signals_of(declaration, declaration.series(name)),
        )
        return asked.write(recording, folder, key)


# --- privacy ----------------------------------------------------------------------------------------------------------


def without_secrets(declaration: Declaration, project: Path) -> Declaration:
    """Return a declaration as a recording may hold it: without keys, tokens, passwords and folders of this machine."""
    told = declaration.model_dump(mode="json", exclude_unset=True)
    told.pop("private_key", None)
    for action in told.get("actions", {}).values():
        action.pop("token", None)
    for entry in ("requests", "labels", "logs", "deployments", "topology", "model", "registry", "objectives"):
        if entry in told:
            told[entry] = _shown(told[entry], project)
    return Declaration.model_validate(told)


def _shown(value: Any, project: Path) -> Any:
    """Return where something is, without a password, and without the path of this machine."""
    if isinstance(value, dict):
        return {name: _shown(one, project) for name, one in value.items()}
    if isinstance(value, list):
        return [_shown(one, project) for one in value]
    if not isinstance(value, str):
        return value
    plain = without_password(value).replace(f"{project.resolve()}/", "")
    if plain.startswith("sqlite:////"):
        return "sqlite:///" + Path(plain.removeprefix("sqlite:///")).name
    return Path(plain).name if plain.startswith("/") else plain


# --- the parts of a recording -----------------------------------------------------------------------------------------


@dataclass
class _Capture:
    """What is captured, and how each part came to be: for the provenance, and what was wrong with it."""

    name: str
    declaration: Declaration
    project: Path
    source: Source | None
    start: float
    end: float
    private: Private
    measured: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def take(self, read: Read, what: str) -> pd.DataFrame:
        """Note how a table was read, and return it."""
        self.problems += read.problems
        if read.step > 1:
            self.derived.append(f"{what}: 1 in {read.step} of {read.total} rows is kept")
        return read.table

    def write(self, recording: Recording, folder: Path, key: str | None) -> Recording:
        """Write a recording without a private value, encrypted where there is a key, and read it."""
        recording = self._cleaned(recording)
        measured, derived, problems = (
            tuple(map(self.private.scrub, lines)) for lines in (self.measured, self.derived, self.problems)
        )
        given = {
            "provenance": Provenance(measured=measured, derived=derived),
            "problems": tuple(dict.fromkeys(problems)),
        }
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_recording(replace(recording, incident=recording.incident.model_copy(update=given)), folder, key=key)
        return read_recording(folder)

    def _cleaned(self, recording: Recording) -> Recording:
        """Return a recording with no private value in what came from elsewhere than the requests and the log."""
        private, held = self.private, recording.incident
        if not private.columns:
            return recording
        alerts = tuple(
            one.model_copy(update={part: private.cleaned(getattr(one, part)) for part in ("labels", "annotations")})
            for one in held.alerts
        )
        notes = tuple(one.model_copy(update={"note": private.scrub(one.note)}) for one in held.deployments)
        incident = held.model_copy(update={"alerts": alerts, "deployments": notes})
        labels = {text: json.dumps(private.cleaned(json.loads(text))) for text in recording.metrics["labels"].unique()}
        metrics = recording.metrics.assign(labels=recording.metrics["labels"].map(labels))
        return replace(recording, incident=incident, metrics=metrics)

    def raw_requests(self) -> pd.DataFrame:
        """Return the requests under their own names, without private columns."""
        if not self.declaration.requests:
            self.measured.append("no requests: the declaration names none")
            return pd.DataFrame()
        read = raw_requests(self.declaration, self.project, self.start, self.end, MOST_REQUESTS)
        if self.private.columns and read.step > 1:
            self.problems.append("the log was not searched for private values of requests that were left out")
        return self.private.cover(self.take(read, "requests"))

    def requests(self, raw: pd.DataFrame, served: Served) -> pd.DataFrame:
        """Return the requests with the columns of a recording; nothing is asked of private columns, which are gone."""
        if raw.empty:
            if self.declaration.requests:
                self.measured.append("no requests in the window")
            return raw
        columns = self.declaration.columns
        if self.declaration.private:
            own = {name: getattr(columns, name) for name in ("features", "categorical", "text")}
            there = {name: tuple(one for one in held if "*" in one or one in raw) for name, held in own.items()}
            columns = columns.model_copy(update=there)
        texts = {} if served.reference is None else {str(name): served.reference[name] for name in served.reference}
        declared = self.declaration.model_copy(update={"columns": columns})
        table = self.take(canonical(raw, declared, texts), "requests")
        known = table["actual"].notna().sum()
        self.measured.append(f"requests: {len(table)} rows, {known} of them with a target that is known")
        return table.assign(time=table["time"].dt.as_unit("us"))

    def reference(self, served: Served) -> pd.DataFrame:
        """Return rows that the version in service learnt from; texts of them as what can be said of them.

        The column of the declared target is called `actual`.
        """
        if served.reference is None:
            return pd.DataFrame()
        step = max(1, math.ceil(len(served.reference) / MOST_REFERENCE))  # every n-th row, so that shares stay
        if step > 1:
            self.derived.append(f"reference: 1 in {step} of {len(served.reference)} rows is kept")
        covered = self.private.cover(served.reference.iloc[::step])
        named = {part for name in self.declaration.columns.text for part in (name, name.rpartition(".")[2])}
        texts = [name for name in covered if named & {name, f"inputs.{name}"}]
        told: dict[str, pd.Series] = {}
        for name in texts:
            told |= described(covered[name], str(name), None)  # no word of theirs is new: that would be no range
        kept = covered.drop(columns=texts).assign(**told)
        labels, target = self.declaration.labels, self.declaration.columns.target
        own = next((name for name in (labels and labels.target, target) if name in kept), None)
        return kept if own is None or "actual" in kept else kept.rename(columns={own: "actual"})

    def models(self, served: Served) -> dict[str, Path]:
        """Return the folders of the versions; that in service with its profile, without what is private."""
        if served.profile is not None:
            hidden = [name for name in served.profile.columns if self.private.names(name)]
            profile = served.profile.without({*hidden, *self.declaration.columns.text}, self.private.scrub)
            profile.save(served.models[served.versions.current] / PROFILE)
        return served.models

    def deployments(self, raw: pd.DataFrame) -> tuple[Deployment, ...]:
        """Return what is declared of deployments, or else what the requests show."""
        if self.declaration.deployments is not None:
            series = self.declaration.series(self.name)
            found, problems = read_deployments(
                self.declaration, self.project, self.source, series, self.start, self.end
            )
            self.problems += problems
            made = [_deployment(*one) for one in found]
            before = [None, *(one.version for one in made)]
            known = [one for one, last in zip(made, before, strict=False) if one.version != last]
            if known or not problems:
                self.measured.append(f"deployments: {len(known)} changes of the version in the service's record")
                return tuple(known[-MOST_ALERTS:])
        column = self.declaration.columns.version
        firsts = pd.Series(dtype=object)
        if column in raw:
            firsts = raw.groupby(raw[column].astype(str))[TIME].min().sort_values().iloc[1:]
        seen = f"{len(firsts)} seen in the requests" if len(firsts) else "none seen"
        self.derived.append(f"deployments: no record of them; {seen}")
        return tuple(_deployment(time, str(version), "its first request") for version, time in firsts.items())

    def samples(self, alerts: Sequence[Alert], promises: Sequence[Promise]) -> pd.DataFrame:
        """Return the samples of the service's series; where there are none, of those that carry no service's name."""
        if self.source is None:
            self.measured.append("no metrics: there is no source of telemetry")
            return self._queried([])
        labels = self.declaration.series(self.name)
        kept = self._queried(self._wanted(alerts, promises, labels))
        whose = ", ".join(f"{label} = {value}" for label, value in labels.items())
        if kept.empty and not self.declaration.match:
            found = self._queried(self._wanted(alerts, promises, {}))
            kept = found[[not {"job", "service"} & json.loads(text).keys() for text in found["labels"]]]
            whose = "no service has this name"
        if kept.empty:
            self.measured.append("no metrics: the source holds no sample of them in the window")
            return kept
        series = kept.groupby(["metric", "labels"]).ngroups
        self.measured.append(f"metrics: {len(kept)} samples of {series} series of {whose}")
        if (step := math.ceil(len(kept) / MOST_SAMPLES)) > 1:
            kept = kept[kept.groupby(["metric", "labels"]).cumcount() % step == 0]
            self.derived.append(f"metrics: 1 in {step} samples of each series is kept")
        return kept.assign(time=kept["time"].dt.as_unit("us")).sort_values("time", kind="stable", ignore_index=True)

    def _wanted(self, alerts: Sequence[Alert], promises: Sequence[Promise], labels: Mapping[str, str]) -> list[str]:
        """Return the selectors to ask for: of the objective that alerted, of the others, of the signals."""
        fired = {alert.labels.get("slo") for alert in alerts} | {alert.name for alert in alerts}
        objectives = [one.objective() for one in promises]
        first = sorted(objectives, key=lambda one: not {one.name, alert_name(one)} & fired)
        counted = [str(one.within(labels)) for objective in first for one in objective.series]
        signals = [*series_of(signals_of(self.declaration, labels)), *more_of(self.declaration, labels)]
        return list(dict.fromkeys([*counted, *signals]))

    def _queried(self, selectors: Sequence[str]) -> pd.DataFrame:
        found = [self.source.query(one, self.start, self.end) for one in selectors] if self.source else []
        if not (parts := [part for part in found if len(part)]):
            return pd.DataFrame(columns=list(METRIC_COLUMNS)).astype({"value": float})
        table: pd.DataFrame = pd.concat(parts, ignore_index=True)[list(METRIC_COLUMNS)]
        return table.drop_duplicates(["metric", "labels", "time"], ignore_index=True)

    def logs(self) -> pd.DataFrame:
        """Return the log lines, whose words are left out where no request tells which of them are private."""
        private = self.private
        read = read_logs(self.declaration, self.project, self.start, self.end, MOST_LINES, private.cleaned)
        table = self.take(read, "log lines")
        if len(table) and private.columns and not private.knows_values:
            table = table.assign(message=HIDDEN, fields="{}")
            self.problems.append("logs: messages are left out, because no request shows which values are private")
        if self.declaration.logs is None:
            self.measured.append("no log lines: the declaration names no log")
        else:
            self.measured.append(f"logs: {len(table)} lines" if len(table) else "no log lines in the window")
        return table

    def incident(self, folder: Path, served: Served, **known: Any) -> Incident:
        """Return what is said of the incident as a whole; `folder` names it."""
        start, end = (datetime.fromtimestamp(at, UTC) for at in (self.start, self.end))
        return Incident(
            format=FORMAT,
            id=folder.parent.name if re.fullmatch(r"recording(-\d+)?", folder.name) else folder.name,
            service=self.name,
            declaration=without_secrets(self.declaration, self.project),
            window=Window(start=start, end=end),
            versions=served.versions,
            checksums=served.checksums,
            **known,
        )

    def alerts(self, given: Sequence[Mapping[str, Any]]) -> tuple[Alert, ...]:
        """Return the alerts as a recording holds them."""
        if len(given) > MOST_ALERTS:
            self.derived.append(f"alerts: the first {MOST_ALERTS} of {len(given)}")
        return tuple(_alert(one) for one in given[:MOST_ALERTS])


def _handled(raw: pd.DataFrame, declaration: Declaration, deployments: Sequence[Deployment]) -> list[str]:
    """Return the versions that took requests, in order of time, since the last deployment where any did since then.

    What was answered, or failed, counts: one that fails may have answered little as yet.
    """
    column = declaration.columns.version
    if raw.empty or column not in raw:
        return []
    named = raw[raw[column].notna() & raw[column].astype(str).ne("")]
    newest = named[named[TIME] >= deployments[-1].time] if len(deployments) else named
    return [str(one) for one in (newest if len(newest) else named)[column]]


def _deployment(time: pd.Timestamp, version: str, note: str) -> Deployment:
    return Deployment(time=time.to_pydatetime(), version=as_version(version), note=note)


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
