"""What has drifted of a service's inputs, forecasts and errors, since when, and whether anyone needs to act.

Effect sizes decide. A p-value stands beside them, and guards against chance in small samples; in large ones everything
is significant. What moved long ago is kept apart from what moved now, so that a level shift is not news for weeks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lepton_kit.data import drift
from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence import contract, inputs_and_actuals, promise, ratings
from lepton_kit.diagnosis.evidence.drift import moved_categories
from lepton_kit.diagnosis.onset import onset_of
from lepton_kit.diagnosis.rows import BREACHES
from lepton_kit.errors import InputError
from lepton_kit.models.flavors import load_model
from lepton_kit.models.tasks import Task
from lepton_kit.telemetry.health import Periods
from lepton_kit.telemetry.recordings import Recording

ANSWER, ERRORS = "answer_", ("loss", "missed")


@dataclass(frozen=True)
class Limits:
    """From where on a column has moved: in both effect sizes, and not by chance.

    `psi` is the population stability index beyond what samples of this size show without any drift; `wasserstein` is
    in standard deviations of the reference; `alpha` the highest p-value.
    """

    psi: float = 0.25
    wasserstein: float = 0.25
    alpha: float = 0.01

    def __post_init__(self) -> None:
        if not (self.psi > 0 and self.wasserstein > 0 and 0 < self.alpha < 1):
            raise InputError(f"{self}: psi and wasserstein must be above 0, alpha between 0 and 1")


@dataclass(frozen=True)
class Compared:
    """Tables of the same columns: numeric inputs, the answers' numbers, `loss` of the task, and `missed` (0 or 1).

    `reference` holds the training rows, answered by the version in service; `reference_is` says so, or what stands in
    for them. `rows` holds the recording's own rows, with `time`; missing values are NaN.
    """

    reference: pd.DataFrame
    reference_is: str
    rows: pd.DataFrame


def compared(recording: Recording, periods: Periods) -> Compared:
    """Make the tables to compare from a recording.

    Where it holds no training rows, or no model to answer them, the period before is the reference.
    """
    task, requests = recording.task, recording.requests
    if task is not None:
        requests = requests[task.answered(requests)].reset_index(drop=True)
    inputs = recording.features(requests).reset_index(drop=True)
    rows = inputs if task is None else _with_errors(task, inputs, requests, requests["actual"])
    rows = rows.assign(time=requests["time"])
    reference = _answered_reference(recording, [str(name) for name in recording.inputs(requests)])
    if reference is None:
        return Compared(periods.before(rows).drop(columns="time"), "the period before", rows)
    return Compared(reference, f"{len(reference)} training rows, answered by the version in service", rows)


def _answered_reference(recording: Recording, inputs: list[str]) -> pd.DataFrame | None:
    """Return the training rows with the answers of the version in service; None without the rows, or a sound model."""
    model, learnt = recording.models.get(recording.incident.versions.current), recording.reference
    if model is None or recording.task is None or not set(inputs) <= set(learnt):
        return None
    kept = learnt.replace([np.inf, -np.inf], np.nan).dropna()
    known = kept["actual"] if "actual" in kept else pd.Series(np.nan, index=kept.index)
    try:
        answers = load_model(model, recording.task).predict(kept[inputs])
        return _with_errors(recording.task, kept[inputs].select_dtypes(["number", "bool"]), answers, known)
    except InputError:  # its files are damaged, or need other inputs
        return None


def _with_errors(task: Task, inputs: pd.DataFrame, answers: pd.DataFrame, actual: pd.Series) -> pd.DataFrame:
    own = answers.reindex(columns=list(dict.fromkeys((*task.required, *task.columns(answers)))))
    told = own[[name for name in task.numeric(own) if name not in ("std", "prob_up")]].astype(float)
    return pd.concat([inputs, told.add_prefix(ANSWER)], axis=1).assign(
        loss=task.loss(own, actual), missed=1 - task.hit(own, actual)
    )


def effects(tables: Compared, periods: Periods, limits: Limits) -> pd.DataFrame:
    """Compare every column of the period that is judged with the reference, and with the period before.

    Returns
    -------
    DataFrame
        `kind` (`input`, `answer`, `error`), `column`, `psi`, `wasserstein` (standard deviations of the reference),
        `p` and its `test`, `moved` (against the reference), `wasserstein_before` (the period before against the
        reference), `news` (moved, and against the period before as well), `since` (the onset of what is news, UTC;
        NaT for others), the largest distance first.
    """
    before, now = periods.before(tables.rows), periods.now(tables.rows)
    shared = [one for one in tables.reference if one in tables.rows]  # a damaged column has no counterpart
    sides = [part[shared].astype(float) for part in (tables.reference, before, now)]
    known = [one for one in shared if min(side[one].count() for side in sides) >= 2]
    reference, was, present = (side[known] for side in sides)
    table, again = (_moved(side, present, limits).loc[known] for side in (reference, was))
    news = table["moved"] & again["moved"]
    series = tables.rows.set_index("time")
    is_news = dict(zip(known, news, strict=True))
    since = [_onset(series[one], periods.split, limits.alpha) if is_news[one] else pd.NaT for one in known]
    table = table.assign(
        kind=[_kind(str(one)) for one in known],
        wasserstein_before=drift.drift_table(reference, was)["wasserstein"],
        news=news,
        since=pd.to_datetime(pd.Series(since, table.index, dtype=object), utc=True),
    ).reset_index()
    columns = ["kind", "column", "psi", "wasserstein", "p", "test", "moved", "wasserstein_before", "news", "since"]
    return table[columns].sort_values("wasserstein", ascending=False, kind="stable", ignore_index=True)


def _moved(reference: pd.DataFrame, current: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    table = drift.shift_table(reference, current)
    is_far = (table["excess_psi"] >= limits.psi) & (table["wasserstein"] >= limits.wasserstein)
    return table.assign(moved=is_far & (table["p"] < limits.alpha))


def _kind(column: str) -> str:
    return "answer" if column.startswith(ANSWER) else "error" if column in ERRORS else "input"


def _onset(series: pd.Series, split: pd.Timestamp, alpha: float) -> pd.Timestamp:
    """Return when a column changed: at first in this period, or else the last time before it; NaT where it did not.

    Of several changes a search finds the largest. Where that lies before this period, what follows it is searched.
    """
    onset: pd.Timestamp | None = None
    rest = series
    while change := _change(rest, alpha):
        onset, rest = onset_of(change), rest.iloc[rest.index.searchsorted(onset_of(change), "right") :]
        if onset >= split:
            break
    return pd.NaT if onset is None else onset  # type: ignore[return-value]


def _change(series: pd.Series, alpha: float) -> drift.ChangePoint | None:
    """Return the change of the mean, or of the distance from the median: whichever is clearer."""
    changes = [drift.change_point(one) for one in (series, (series - series.median()).abs())]
    known = [change for change in changes if change is not None and change.p_value < alpha]
    return min(known, key=lambda change: change.p_value) if known else None


@dataclass(frozen=True)
class Verdict:
    """Whether anyone needs to act, and one sentence that says why."""

    act: bool
    sentence: str


ASKED = (contract, promise, ratings, inputs_and_actuals)
"""The questions of the diagnosis that decide whether anyone needs to act."""


def verdict(case: Case, table: pd.DataFrame) -> Verdict:
    """Say whether anyone needs to act.

    A broken contract, a promise that is not kept, ratings that fell, or inputs that moved without the actuals ask for
    it. Drift alone, while the answers keep their promise, does not; and what had moved before is not told again. Where
    nothing tells for certain whether they keep it, drift asks for it, and that nobody needs to act is not claimed.
    """
    broken, held, rated, moved = (ask(case) for ask in ASKED)
    if broken.finding == "broken":
        rise = case.breaches.loc[case.during.index].mean() - case.breaches.loc[case.before.index].mean()
        worst, when = str(rise.idxmax()), "" if broken.onset is None else f" since {broken.onset:%Y-%m-%d %H:%M} UTC"
        return Verdict(True, f"Act: the inputs break their contract{when} ({worst}: {BREACHES[worst]}). Fix the feed.")
    for item in (held, rated):
        if item.finding == "fell":
            return Verdict(True, f"Act: {item.summary}. Run the incident diagnosis on this recording.")
    if moved.finding == "inputs alone":
        return Verdict(True, f"Act: the inputs moved and the actuals did not ({moved.summary}). Look at the feed.")
    found, is_news = _drift_in_words(case, table)
    if lacking := [item for item in (held, broken) if not item.checked or item.finding == "unclear"]:
        why = f"whether the answers keep their promise is not known ({'; '.join(item.summary for item in lacking)})"
        return Verdict(
            is_news, f"Act: {found}, and {why}. Look at the feed." if is_news else f"Not judged: {found}; {why}."
        )
    return Verdict(False, f"No one needs to act: {found}{', but ' if is_news else '; '}{held.summary}.")


def _drift_in_words(case: Case, table: pd.DataFrame) -> tuple[str, bool]:
    """Say which columns moved, and whether that is news; categories are compared with those before the onset."""
    categories = moved_categories(case)
    news = [*table.loc[table["news"], "column"].astype(str), *categories.index[categories["moved"]].astype(str)]
    if news:
        return f"{len(news)} columns moved now ({', '.join(news[:3])})", True
    if table["moved"].any():
        return f"{table['moved'].sum()} columns differ from the reference, as they did before", False
    return "nothing moved", False
