"""Holds the declarations of services against reality: one finding for each thing, and what to do about it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import pandas as pd

from lepton_kit.diagnosis.served import served_models
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.flavors import load_model
from lepton_kit.models.tasks import Task, task_of
from lepton_kit.ops.actions import check_action
from lepton_kit.ops.declared import service_address
from lepton_kit.ops.watch.evidence import is_address
from lepton_kit.ops.watch.notify import open_targets
from lepton_kit.project.declarations import declared
from lepton_kit.project.settings import Settings, read_settings
from lepton_kit.reports.quarto import find_quarto
from lepton_kit.runs.ledger import Ledger
from lepton_kit.secrets import resolve_secret
from lepton_kit.telemetry.databases import Read
from lepton_kit.telemetry.declaration import READY, Command, Declaration, signals_of
from lepton_kit.telemetry.prometheus import open_source
from lepton_kit.telemetry.readers import read_requests
from lepton_kit.telemetry.recordings import FEATURE
from lepton_kit.telemetry.scrape import parse
from lepton_kit.telemetry.sealed import check_key
from lepton_kit.telemetry.selectors import Selector, parse_selector
from lepton_kit.telemetry.signals import ROLES
from lepton_kit.telemetry.slo import read_objectives
from lepton_kit.tls import trusted

State = Literal["ok", "wrong", "absent"]
LOOKED_BACK_S = 7 * 86400.0
"""How old the youngest requests may be that are checked."""

REPLAYED = 10
RECENT_S = 900.0


@dataclass(frozen=True)
class Finding:
    """What was found of one entry of a declaration; `absent` is not declared, and so is not checked by a diagnosis."""

    what: str
    state: State
    finding: str
    remedy: str = ""


def examine(project: Path, names: Sequence[str] = ()) -> Iterator[Finding]:
    """Examine the declared services of a project, or those named, and give each finding as it is made.

    Raises InputError when lepton.toml cannot be read, or declares no such service.
    """
    settings = read_settings(project)
    if unknown := [name for name in names if name not in settings.services]:
        known = ", ".join(settings.services) or "none"
        raise InputError(f"service {unknown[0]!r}: not in {project / 'lepton.toml'} (there are: {known})")
    yield _quarto()
    if settings.ledger is not None:
        yield _ledger(project)
    if settings.capture.key is not None:
        yield _capture(settings.capture.key, project)
    yield _notify(settings, project)
    if not settings.services:
        yield Finding("services", "absent", "lepton.toml declares none", "write a section [services.<name>]")
    for name in names or settings.services:
        try:
            declaration = declared(project, name)
        except LeptonError as error:
            yield Finding(f"services.{name}", "wrong", str(error))
            continue
        yield from _examine(name, declaration, settings, project)


def _quarto() -> Finding:
    try:
        found = find_quarto()
    except LeptonError as error:
        return Finding("quarto", "wrong", str(error))
    if found is None:
        return Finding("quarto", "absent", "not found: the report site is made of plain pages", "see README")
    return Finding("quarto", "ok", str(found.version))


def _ledger(project: Path) -> Finding:
    try:
        ledger = Ledger(project)
        with ledger.transaction():
            return Finding("ledger", "ok", f"{ledger} answers, and has its tables")
    except InputError as error:
        return Finding("ledger", "wrong", str(error))


def _capture(key: str, project: Path) -> Finding:
    try:
        check_key(key, project)
    except InputError as error:
        return Finding("capture.key", "wrong", str(error))
    return Finding("capture.key", "ok", "recordings are encrypted")


def _notify(settings: Settings, project: Path) -> Finding:
    try:
        targets = open_targets(settings.notify, project)
    except InputError as error:
        return Finding("notify", "wrong", str(error))
    if not targets:
        return Finding("notify", "absent", "nobody is notified of incidents", "write a section [notify] with urls")
    return Finding("notify", "ok", f"{', '.join(targets)}: `lepton notify --test` tries them")


def _examine(name: str, declaration: Declaration, settings: Settings, project: Path) -> Iterator[Finding]:
    key = f"services.{name}"
    steps: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("address", lambda: _address(name, declaration, project)),
        ("objectives", lambda: _series(name, declaration, settings, project)),
        ("requests", lambda: _requests(declaration, project)),
        ("private_key", lambda: _private(declaration, project)),
        ("actions", lambda: _actions(key, declaration, project)),
    )
    for entry, step in steps:
        try:
            for one in step():
                yield Finding(f"{key}.{one.what}", one.state, one.finding, one.remedy)
        except (LeptonError, OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            yield Finding(f"{key}.{entry}", "wrong", str(error) or type(error).__name__)


# --- what answers -----------------------------------------------------------------------------------------------------


def _ask(address: str, path: str) -> httpx.Response | None:
    try:
        return httpx.get(f"{address}{path}", timeout=5, trust_env=False, follow_redirects=True, verify=trusted())
    except (httpx.HTTPError, httpx.InvalidURL):
        return None


def _address(name: str, declaration: Declaration, project: Path) -> Iterator[Finding]:
    address = service_address(name, declaration, project)
    if address is None:
        yield Finding("address", "absent", "none: neither readiness nor metrics are checked", "declare address")
        return
    paths = [declaration.ready] if declaration.ready else list(READY)
    answers = {path: answer for path in paths if (answer := _ask(address, path)) is not None}
    if not answers:
        yield Finding("address", "wrong", f"{address} does not answer", "start the service, or correct the address")
        return
    path = next((path for path, answer in answers.items() if answer.status_code == 200), None)
    if path is None:
        said = ", ".join(f"{path} {answer.status_code}" for path, answer in answers.items())
        yield Finding("ready", "wrong", f"{address} is not ready: {said}", "declare ready, the path that answers 200")
    else:
        yield Finding("ready", "ok", f"{address}{path} answers 200")


def _series(name: str, declaration: Declaration, settings: Settings, project: Path) -> Iterator[Finding]:
    """Look for the series of the objectives and signals: in a Prometheus, or in what the service shows now."""
    labels = declaration.series(name)
    wanted = {f"signals.{role}": one.parts(ROLES[role].kind) for role, one in signals_of(declaration, labels).items()}
    wanted.pop("signals.up", None)
    try:
        for one in read_objectives(project / declaration.objectives):
            own = one.within(labels)
            wanted[f"objectives.{one.name}"] = {one.events: str(own.selector), "total": str(own.total)}
    except InputError as error:
        yield Finding("objectives", "wrong", str(error), "write one, or let `lepton init` show how they look")
    if not wanted:
        yield Finding("signals", "absent", "none: no signal for queue, saturation or latency", "declare signals")
        return
    if not is_address(settings.watch.source) and service_address(name, declaration, project) is None:
        yield Finding("signals", "absent", "cannot be looked for without an address", "declare address")
        return
    has = _finder(name, declaration, settings, project)
    for what, parts in wanted.items():
        missing = [text for text in parts.values() if not has(text)]
        if missing and has(str(Selector(parse_selector(missing[0]).metric, ()).within(labels))):
            yield Finding(what, "absent", f"{missing[0]} matches no series yet, though others of its metric are there")
        elif missing:
            yield Finding(what, "wrong", f"{missing[0]} matches no series", "compare it with /metrics")
        else:
            yield Finding(what, "ok", f"{next(iter(parts.values()))} is there")


def _finder(name: str, declaration: Declaration, settings: Settings, project: Path) -> Callable[[str], bool]:
    source, now = settings.watch.source, time.time()
    if is_address(source):
        opened = open_source(source, project)
        return lambda text: len(opened.query(text, now - RECENT_S, now)) > 0
    address = service_address(name, declaration, project) or ""
    answer = _ask(address, "/metrics")
    if answer is None or answer.status_code != 200:
        told = "does not answer" if answer is None else f"answers {answer.status_code}"
        raise InputError(f"{address}/metrics {told}: no selector can be looked for")
    own = {"job": name, "instance": "", **declaration.series(name)}
    samples = parse(answer.text, own, now, answer.headers.get("content-type", ""))
    return lambda text: any(parse_selector(text).matches(one.metric, one.labels) for one in samples)


# --- what is written down ---------------------------------------------------------------------------------------------


def _requests(declaration: Declaration, project: Path) -> Iterator[Finding]:
    if not declaration.requests:
        yield Finding("requests", "absent", "none: inputs and answers are not checked", "declare requests and columns")
        return
    now = time.time()
    read = read_requests(declaration, project, now - LOOKED_BACK_S, now)
    for problem in read.problems:
        yield Finding("requests", "wrong", problem)
    if read.table.empty:
        yield Finding("requests", "wrong", "no row of the last seven days", "compare path and columns.timestamp")
        return
    yield Finding("requests", "ok", f"{read.total} rows of the last seven days, the newest {_ago(read)} ago")
    yield from _roles(read.table, declaration)
    yield from _models(read.table, declaration, project)


def _ago(read: Read) -> str:
    return str((pd.Timestamp.now("UTC") - read.table["time"].max()).floor("s"))


def _roles(table: pd.DataFrame, declaration: Declaration) -> Iterator[Finding]:
    """Say which roles of the columns have values: what has none is not checked."""
    features = [name for name in map(str, table) if name.startswith(FEATURE)]
    answers = task_of(declaration.task).columns(table) if declaration.task else []
    roles = {
        "features": features, "prediction": answers, "target": ["actual"], "version": ["version"],
        "status": ["status"], "latency_ms": ["latency_ms"],
    }  # fmt: skip
    for role, names in roles.items():
        held = [name for name in names if name in table and table[name].notna().any()]
        if held:
            share = table[held].notna().mean().mean()
            yield Finding(f"columns.{role}", "ok", f"{', '.join(held[:5])}{', …' * (len(held) > 5)}: {share:.0%} known")
        else:
            yield Finding(f"columns.{role}", "absent", "no value: what needs it is not checked", f"declare {role}")


def _models(table: pd.DataFrame, declaration: Declaration, project: Path) -> Iterator[Finding]:
    """Load the versions as a capture does, and ask the one in service for the last rows again."""
    if declaration.model is None:
        yield Finding("model", "absent", "none: no row can be replayed, data and model faults are harder to tell apart")
        return
    handled = table["version"].dropna().astype(str).tolist() if "version" in table else []
    with tempfile.TemporaryDirectory() as scratch:
        served = served_models(declaration, project, handled, Path(scratch))
        for role in ("current", "last_good"):
            version = getattr(served.versions, role)
            if version in served.models:
                yield Finding(f"model.{role}", "ok", f"{version} is there")
            else:
                state: State = "wrong" if role == "current" else "absent"
                yield Finding(f"model.{role}", state, "; ".join(served.derived) or "none")
        place = served.models.get(served.versions.current)
        if place is not None and declaration.task is not None:
            task = task_of(declaration.task)
            yield _replayed(table[task.answered(table)].tail(REPLAYED), place, task)


def _replayed(rows: pd.DataFrame, place: Path, task: Task) -> Finding:
    if rows.empty:
        return Finding("model.replay", "absent", "no answered row to replay")
    features = [name for name in map(str, rows) if name.startswith(FEATURE)]
    inputs = rows[features].rename(columns=lambda name: str(name).removeprefix(FEATURE))
    categorical = list(map(str, inputs.select_dtypes(exclude=["number", "bool"])))
    model = load_model(place, task, categorical=categorical)
    apart = float(task.distance(model.predict(inputs).set_axis(rows.index), rows).mean())
    if not apart <= task.same:
        remedy = "compare columns.features with what the model was given, or the version with the one that answers"
        return Finding("model.replay", "wrong", f"{len(rows)} rows replayed differ by {apart:.3g} {task.unit}", remedy)
    return Finding("model.replay", "ok", f"{len(rows)} rows replayed give the answers that were logged")


# --- what can be done -------------------------------------------------------------------------------------------------


def _private(declaration: Declaration, project: Path) -> Iterator[Finding]:
    if declaration.private_key is not None:
        resolve_secret(declaration.private_key, project)
        yield Finding("private_key", "ok", f"{declaration.private_key} is there")


def _actions(key: str, declaration: Declaration, project: Path) -> Iterator[Finding]:
    if not declaration.actions:
        yield Finding("actions", "absent", "none: repairs only list what to do by hand", "declare actions")
    for name, action in declaration.actions.items():
        try:
            check_action(f"{key}.actions.{name}", action)
        except InputError as error:
            yield Finding(f"actions.{name}", "wrong", str(error))
            continue
        if isinstance(action, Command):
            word = action.run[0]
            found = shutil.which(word) or ((project / word).is_file() and str(project / word))
            told = f"{word} is there" if found else f"{word!r} is not a command on this machine"
            yield Finding(
                f"actions.{name}", "ok" if found else "wrong", told, "" if found else "install it, or correct it"
            )
        else:
            url = httpx.URL(action.url)
            is_there = _ask(f"{url.scheme}://{url.netloc.decode()}", "/") is not None
            told = f"{url.host} answers" if is_there else f"{url.host} does not answer"
            yield Finding(f"actions.{name}", "ok" if is_there else "wrong", told)
