"""What has drifted of a service's inputs, forecasts and errors, since when, and whether anyone needs to act.

Inputs are compared with the profile that the registry keeps beside the model in service, of all rows that it learnt
from. What moved long ago is kept apart from what moved now, so that a level shift is not news for weeks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lepton_kit.data import drift
from lepton_kit.data.profiles import OTHERS, Column, Profile, drift_table, profile_of, read_profile
from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence import contract, inputs_and_actuals, promise, ratings
from lepton_kit.diagnosis.onset import onset_of
from lepton_kit.diagnosis.rows import BREACHES
from lepton_kit.errors import InputError
from lepton_kit.models.flavors import PROFILE, load_model
from lepton_kit.models.tasks import Task
from lepton_kit.telemetry.health import Periods
from lepton_kit.telemetry.recordings import Recording

ANSWER, ERRORS = "answer_", ("loss", "missed")


@dataclass(frozen=True)
class Limits:
    """From where on a column has moved.

    `psi` is the least population stability index that counts; it must also be larger than chance shows of samples of
    this size, in a share `alpha` of tables.
    """

    psi: float = 0.25
    alpha: float = 0.01

    def __post_init__(self) -> None:
        if not (self.psi > 0 and 0 < self.alpha < 1):
            raise InputError(f"{self}: psi must be above 0, alpha between 0 and 1")


@dataclass(frozen=True)
class Compared:
    """What is compared: inputs, the answers' numbers, `loss` of the task, and `missed` (0 or 1).

    `profile` is the reference, and `reference_is` says of what. `reference` holds those of its rows that there are: the
    training rows, answered by the version in service, or the period before. `rows` holds the recording's own rows,
    with `time`.
    """

    profile: Profile
    reference: pd.DataFrame
    reference_is: str
    rows: pd.DataFrame

    def table(self, rows: pd.DataFrame, limits: Limits) -> pd.DataFrame:
        """Return the drift table of some rows against the reference."""
        return _drift_table(self.profile, rows, limits)


def compared(recording: Recording, periods: Periods) -> Compared:
    """Make the tables to compare from a recording.

    The reference of the inputs is the profile stored with the version in service; without one, the training rows of the
    recording; without these, or a model to answer them, the period before.
    """
    task, requests = recording.task, recording.requests
    if task is not None:
        requests = requests[task.answered(requests)].reset_index(drop=True)
    inputs = recording.inputs(requests).reset_index(drop=True)
    rows = inputs if task is None else _with_errors(task, inputs, requests, requests["actual"])
    rows = rows.assign(time=requests["time"])
    reference, said = (
        _answered_reference(recording, list(map(str, inputs))),
        "training rows, answered by the version in",
    )
    is_known = reference is not None
    reference = periods.before(rows).drop(columns="time") if reference is None else reference
    told = f"{len(reference)} {said} service" if is_known else "the period before"
    profile, stored, problem = profile_of(reference), *_stored_profile(recording)
    if stored is None:
        return Compared(profile, reference, f"{told}; {problem}" if problem else told, rows)
    columns = {name: one for name, one in stored.columns.items() if name in inputs}
    columns |= {name: one for name, one in profile.columns.items() if name not in inputs}
    left_out = {name: why for name, why in stored.left_out.items() if name in inputs}
    whole = Profile(stored.rows, columns, {**profile.left_out, **left_out})
    version = recording.incident.versions.current
    told = f"inputs: the profile of {stored.rows} training rows, stored with {version}; answers and errors: {told}"
    return Compared(whole, reference, told, rows)


def _stored_profile(recording: Recording) -> tuple[Profile | None, str]:
    """Return the profile that lies beside the version in service, or None, and what is wrong with it."""
    folder = recording.models.get(recording.incident.versions.current)
    if folder is None or not (folder / PROFILE).is_file():
        return None, ""
    try:
        return read_profile(folder / PROFILE), ""
    except InputError as error:
        return None, f"the stored profile cannot be used ({str(error).replace(f'{folder}/', '')})"


def _answered_reference(recording: Recording, inputs: list[str]) -> pd.DataFrame | None:
    """Return the training rows with the answers of the version in service; None without the rows, or a sound model."""
    model, learnt = recording.models.get(recording.incident.versions.current), recording.reference
    if model is None or recording.task is None or not set(inputs) <= set(learnt):
        return None
    kept = learnt.replace([np.inf, -np.inf], np.nan).dropna()
    known = kept["actual"] if "actual" in kept else pd.Series(np.nan, index=kept.index)
    try:
        answers = load_model(model, recording.task).predict(kept[inputs])
        return _with_errors(recording.task, kept[inputs], answers, known)
    except InputError:  # its files are damaged, or need other inputs
        return None


def _with_errors(task: Task, inputs: pd.DataFrame, answers: pd.DataFrame, actual: pd.Series) -> pd.DataFrame:
    own = answers.reindex(columns=list(dict.fromkeys((*task.required, *task.columns(answers)))))
    told = own[[name for name in task.numeric(own) if name not in ("std", "prob_up")]].astype(float)
    return pd.concat([inputs, told.add_prefix(ANSWER)], axis=1).assign(
        loss=task.loss(own, actual), missed=1 - task.hit(own, actual)
    )


EFFECTS = [
    *("kind", "column", "psi", "limit", "mean_shift", "spread_ratio", "missing", "moved", "psi_before", "news", "since")
]


def effects(tables: Compared, periods: Periods, limits: Limits) -> pd.DataFrame:
    """Compare every column of the period that is judged with the reference, and with the period before.

    Returns
    -------
    DataFrame
        `kind` (`input`, `answer`, `error`), `column`, `psi`, the `limit` from which on it counts, `mean_shift` and
        `spread_ratio` (of numbers, by the standard deviation of the reference), the share that is `missing`, `moved`
        (against the reference), `psi_before` (the period before against the reference), `news` (moved, and against the
        period before as well), `since` (the onset of what is news, UTC; NaT for others), the largest index first.
        `attrs["left_out"]` says of each other column why it is not compared.
    """
    before, now = periods.before(tables.rows), periods.now(tables.rows)
    table, was = (tables.table(rows, limits) for rows in (now, before))
    again = _drift_table(profile_of(before.drop(columns="time")), now, limits)
    news = table["moved"] & again["moved"].reindex(table.index, fill_value=False)
    series = tables.rows.set_index("time")
    most_moved = table["most_moved"].to_dict()
    since = [
        _onset(_as_numbers(series[name], most_moved[name], tables.profile), periods.split, limits.alpha)
        if is_news
        else pd.NaT
        for name, is_news in news.items()
    ]
    left_out = table.attrs["left_out"]
    table = table.assign(
        kind=[_kind(str(name)) for name in table.index],
        psi_before=was["psi"].reindex(table.index),
        news=news,
        since=pd.to_datetime(pd.Series(since, table.index, dtype=object), utc=True),
    ).reset_index()[EFFECTS]
    table.attrs["left_out"] = left_out
    return table


def _drift_table(profile: Profile, rows: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """Return the drift table; an error that is not known yet, as its actual comes later, is none that is missing."""
    counted = profile.count(rows.drop(columns="time", errors="ignore"))

    def with_known_errors(columns: Mapping[str, Column]) -> dict[str, Column]:
        return {name: replace(one, missing=0) if name in ERRORS else one for name, one in columns.items()}

    was, now = (replace(one, columns=with_known_errors(one.columns)) for one in (profile, counted))
    return drift_table(was, now, limits.psi, limits.alpha)


def _as_numbers(values: pd.Series, most_moved: object, profile: Profile) -> pd.Series:
    """Return a column as numbers whose mean can change: of a category, whether a row has the value that moved most."""
    if not isinstance(most_moved, str):
        return values.astype(float)
    text = values.astype(str)
    is_it = ~text.isin(profile.columns[str(values.name)].bins) if most_moved == OTHERS else text == most_moved
    return is_it.astype(float).where(values.notna())


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
    found, is_news = _drift_in_words(table)
    if lacking := [item for item in (held, broken) if not item.checked or item.finding == "unclear"]:
        why = f"whether the answers keep their promise is not known ({'; '.join(item.summary for item in lacking)})"
        return Verdict(
            is_news, f"Act: {found}, and {why}. Look at the feed." if is_news else f"Not judged: {found}; {why}."
        )
    return Verdict(False, f"No one needs to act: {found}{', but ' if is_news else '; '}{held.summary}.")


def _drift_in_words(table: pd.DataFrame) -> tuple[str, bool]:
    """Say which columns moved, and whether that is news."""
    news = list(table.loc[table["news"], "column"].astype(str))
    if news:
        return f"{len(news)} columns moved now ({', '.join(news[:3])})", True
    if table["moved"].any():
        return f"{table['moved'].sum()} columns differ from the reference, as they did before", False
    return "nothing moved", False
