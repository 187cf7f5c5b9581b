"""What every piece of evidence is, how a question says what it needs, and what the questions share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce, wraps
from typing import Literal

import pandas as pd
import scipy

from lepton_kit.data.drift import TwoSample, change_point
from lepton_kit.diagnosis.case import Case, onset_table
from lepton_kit.diagnosis.onset import by_time, onset_of
from lepton_kit.errors import InputError
from lepton_kit.telemetry.declaration import Declaration, signals_of
from lepton_kit.telemetry.recordings import FORMER, feature_columns

Cause = Literal["data", "model", "compute", "none", "unknown"]
NOT_CHECKED, NOT_APPLICABLE = "not checked", "not applicable"


@dataclass(frozen=True)
class Evidence:
    """One answered question: what was found, how large, since when.

    `speaks_for` and `speaks_against` name the causes that the finding makes more and less likely; they are filled from
    the table of likelihood ratios (`lepton_kit.diagnosis.ranking.weigh`), not by the question. `lacks` names what a
    question that was not checked could not do without, as its `needs` name it.
    """

    name: str
    finding: str
    summary: str
    effect: float = float("nan")
    unit: str = ""
    p_value: float | None = None
    onset: pd.Timestamp | None = None
    speaks_for: frozenset[Cause] = frozenset()
    speaks_against: frozenset[Cause] = frozenset()
    lacks: tuple[str, ...] = ()

    @property
    def checked(self) -> bool:
        """Whether the question was answered: neither left out for want of something, nor of no use here."""
        return self.finding not in (NOT_CHECKED, NOT_APPLICABLE)


class NotCheckedError(InputError):
    """Why a question cannot be answered of a case."""


def answer(
    finding: str,
    summary: str,
    effect: float = float("nan"),
    unit: str = "",
    p_value: float | None = None,
    onset: pd.Timestamp | None = None,
) -> Evidence:
    """Return what a question found; it becomes the evidence of its name."""
    return Evidence("", finding, summary, float(effect), unit, p_value, onset)


# --- what a question needs --------------------------------------------------------------------------------------------

Question = Callable[[Case], Evidence]


@dataclass(frozen=True)
class Need:
    """Something that a question cannot do without.

    `entries` of the declaration say where it is, `what` it is called in a recording, and `is_there` looks.
    """

    entries: tuple[str, ...]
    what: str
    is_there: Callable[[Case], bool]

    def lacking(self, case: Case) -> str:
        """Say what is not there: not declared, or declared and not recorded; nothing where it is."""
        if self.is_there(case):
            return ""
        incident = case.recording.incident
        if incident.format == FORMER or any(_entry(incident.declaration, entry) for entry in self.entries):
            return f"the recording holds no {self.what}"
        return f"the declaration names no {' and no '.join(self.entries)}"


def undeclared(declaration: Declaration, need: str) -> tuple[str, ...]:
    """Return the entries of a declaration that what a question needs asks for, where it names none of them.

    >>> undeclared(Declaration(), "requests.target"), undeclared(Declaration(logs="app.jsonl"), "logs")
    (('labels', 'columns.target'), ())
    """
    kind, _, role = need.partition(".")
    if kind == "signals":
        return () if role in signals_of(declaration) else (f"signals.{role}",)
    entries = ("model",) if kind == "model" else NEEDS[need].entries
    return () if any(_entry(declaration, entry) for entry in entries) else entries


def _entry(declaration: object, path: str) -> object:
    return reduce(lambda part, name: getattr(part, name, None), path.split("."), declaration)


def _column(name: str) -> Callable[[Case], bool]:
    return lambda case: name in case.requests and bool(case.requests[name].notna().any())


NEEDS = {
    "task": Need(("task",), "task", lambda case: case.recording.task is not None),
    "requests": Need(("requests",), "requests", lambda case: len(case.requests) > 0),
    "requests.features": Need(("columns.features",), "features", lambda case: bool(feature_columns(case.requests))),
    "requests.target": Need(("labels", "columns.target"), "known actual", _column("actual")),
    "requests.status": Need(("columns.status",), "status of a request", _column("status")),
    "requests.latency_ms": Need(("columns.latency_ms",), "latency of a request", _column("latency_ms")),
    "requests.version": Need(("columns.version",), "version of an answer", _column("version")),
    "requests.rating": Need(("columns.rating", "labels.rating"), "rating of a user", _column("rating")),
    "deployments": Need(("deployments",), "deployments", lambda case: bool(case.recording.incident.deployments)),
    "objectives": Need(
        ("objectives",), "objective of the service", lambda case: bool(case.recording.incident.promises)
    ),
    "logs": Need(("logs",), "log lines", lambda case: not case.recording.logs.empty),
}
"""What questions may need, by the name that they give it."""

OF_ROWS_IN_ORDER = "rows of this service do not follow on each other in time (time_series is not declared)"


def evidence(needs: tuple[str, ...] = (), time_series: bool = False) -> Callable[[Question], Question]:
    """Make a function a question that is asked of every case which has what it needs.

    Parameters
    ----------
    needs
        Names in `NEEDS`; `model.current` or `model.last_good`: a version that could be replayed; and `signals.<role>`.
    time_series
        Whether it asks for the order of rows: elsewhere it is not applicable.
    """

    def register(ask: Question) -> Question:
        name = ask.__name__

        @wraps(ask)
        def question(case: Case) -> Evidence:
            if time_series and not case.recording.incident.declaration.time_series:
                return Evidence(name, NOT_APPLICABLE, OF_ROWS_IN_ORDER)
            lacking = {need: why for need in needs if (why := _lacking(case, need))}
            if lacking:
                told = "; ".join(dict.fromkeys(lacking.values()))
                return Evidence(name, NOT_CHECKED, told, lacks=tuple(lacking))
            try:
                return replace(ask(case), name=name)
            except NotCheckedError as why:
                return Evidence(name, NOT_CHECKED, str(why))

        REGISTERED.append(question)
        return question

    return register


REGISTERED: list[Question] = []


def _lacking(case: Case, need: str) -> str:
    kind, _, role = need.partition(".")
    if kind == "signals":
        return case.recording.lacking(role)
    return case.unreplayed.get(role, "") if kind == "model" else NEEDS[need].lacking(case)


# --- what questions share ---------------------------------------------------------------------------------------------


def need_rows(case: Case, before: pd.Series | pd.DataFrame, during: pd.Series | pd.DataFrame, what: str) -> None:
    """Raise a `NotCheckedError` where either side has fewer rows than are needed."""
    least = case.criteria.least_rows
    if min(len(before), len(during)) < least:
        raise NotCheckedError(
            f"{len(before)} {what} before the onset and {len(during)} since; {least} are needed on each side"
        )


def compared(case: Case) -> TwoSample:
    """Return how well a classifier tells the inputs since the onset from those before."""
    found = case.two_sample
    if isinstance(found, str):
        raise NotCheckedError(found)
    return found


APART = 0.65
"""Area under the ROC curve from which on a classifier tells two samples apart; 0.5 is chance."""


def is_apart(found: TwoSample, case: Case) -> bool:
    """Tell whether a classifier tells two samples apart, and not by chance."""
    return found.auc >= APART and found.p_value < case.criteria.alpha


FEWEST_SCRAPES = 5


def scrapes_of(case: Case, series: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return the values of a series of scrapes before the onset and since; a `NotCheckedError` where they are few."""
    before, during = split(series, case.onset)
    if min(len(before), len(during)) < FEWEST_SCRAPES:
        raise NotCheckedError(f"{len(before)} scrapes before the onset and {len(during)} since")
    return before, during


def split(series: pd.Series, onset: pd.Timestamp) -> tuple[pd.Series, pd.Series]:
    """Return the values of a series by time before a moment, and from it on."""
    return series[series.index < onset], series[series.index >= onset]


def share_rose(
    case: Case,
    hits: pd.Series,
    least: float,
    told: Callable[[float, float], str],
    findings: tuple[str, str] = ("grew", "steady"),
    what: str = "requests",
    symptom: str | None = None,
) -> Evidence:
    """Answer whether a share of requests rose at the onset by an effect that counts, and not by chance.

    Parameters
    ----------
    hits
        Booleans by the index of the case's requests; of those that are judged (`what` they are, in the plural).
    least
        Least rise of the share that counts.
    told
        Makes the summary from the share before and since.
    findings
        What is found where it rose, and where it did not.
    symptom
        The symptom of `onset_table` that shows the same share, if any: a change point of it counts wherever it lies.
    """
    before, during = (hits[hits.index.isin(side.index)] for side in (case.before, case.during))
    need_rows(case, before, during, what)
    was, since, p_value = float(before.mean()), float(during.mean()), share_p_value(before, during)
    if symptom is not None:
        p_value = honest_p_value(case, symptom, p_value)
    rose = since - was >= least and p_value < case.criteria.alpha
    rose = rose or (symptom is not None and counts_by_itself(case, symptom))
    series = by_time(hits, pd.DatetimeIndex(case.requests.loc[hits.index, "time"]))
    onset = onset_in(series, case) if rose else None
    return answer(findings[0 if rose else 1], told(was, since), since - was, "change of share", p_value, onset)


def share_p_value(before: pd.Series, during: pd.Series) -> float:
    """Return Fisher's exact p-value of two shares."""
    table = [[int(side.sum()), int(len(side) - side.sum())] for side in (before, during)]
    return float(scipy.stats.fisher_exact(table).pvalue)


def honest_p_value(case: Case, symptom: str, p_value: float) -> float:
    """Return the p-value of the change point where the onset was chosen from this very series, else the given one.

    A test of the split takes the split as known, and is too sure where it was chosen.
    """
    if case.dated.symptom != symptom:
        return p_value
    table = onset_table(case)
    return float(table.loc[table["symptom"] == symptom, "p"].iloc[0])


def counts_by_itself(case: Case, symptom: str) -> bool:
    """Return whether a symptom has a change point, at any time, that is large and not by chance."""
    table = onset_table(case)
    return bool(table.loc[table["symptom"] == symptom, "counts"].any())


def onset_in(series: pd.Series, case: Case) -> pd.Timestamp | None:
    """Return when a series by time changed; None where it did not, or may have by chance."""
    change = change_point(series)
    if change is None or change.p_value >= case.criteria.alpha:
        return None
    return onset_of(change)
