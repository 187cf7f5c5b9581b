"""The case: a recording made ready to question.

`build_case` finds the onset, splits the requests there, and replays those whose inputs keep the contract through the
current and the last good version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from lepton_kit.data.drift import ChangePoint, TwoSample, two_sample
from lepton_kit.diagnosis.onset import (
    DROP,
    Criteria,
    Onset,
    Symptom,
    changes_of,
    find_onset,
    misses,
    onset_of,
    promised,
)
from lepton_kit.diagnosis.rows import asked_anew, contract_breaches, following, is_whole
from lepton_kit.errors import InputError
from lepton_kit.models.flavors import load_model
from lepton_kit.models.tasks import Task
from lepton_kit.telemetry.recordings import Deployment, Recording, is_inside, printable

MOST_LACKING = 0.5
"""Where more of the rows lacked a value before the onset, nothing tells whether values went missing at it."""

MOST_COMPARED = 600
"""Rows of either side that a classifier learns to tell apart at most."""


@dataclass(frozen=True)
class Case:
    """A recording made ready to question: its requests before and during, and what two versions answer to them.

    `replayed` holds one table per version that could be loaded (`current`, `last_good`): the answers of its task to
    every request whose inputs keep the contract, with the index of `requests`. `unreplayed` says why one is not there.
    `changes` holds each symptom with its change point, where it has one.
    """

    recording: Recording
    criteria: Criteria
    dated: Onset
    requests: pd.DataFrame
    breaches: pd.DataFrame
    changes: tuple[tuple[Symptom, ChangePoint | None], ...]
    replayed: dict[str, pd.DataFrame]
    unreplayed: dict[str, str]

    @property
    def onset(self) -> pd.Timestamp:
        """Return when the incident began (UTC)."""
        return self.dated.time

    @cached_property
    def before(self) -> pd.DataFrame:
        """Return the requests before the onset."""
        return self.requests[self.requests["time"] < self.onset]

    @cached_property
    def during(self) -> pd.DataFrame:
        """Return the requests from the onset on."""
        return self.requests[self.requests["time"] >= self.onset]

    @property
    def task(self) -> Task:
        """Return what the service's model does; questions that ask for it need a declared one."""
        if self.recording.task is None:
            raise InputError(f"recording {self.recording.incident.id}: its declaration names no task")
        return self.recording.task

    @cached_property
    def answered(self) -> pd.Series:
        """Tell for each request whether it was answered: by its status, or its answer where no status is known."""
        status = self.requests["status"]
        given = False if self.recording.task is None else self.task.answered(self.requests)
        return status.lt(400) | (status.isna() & given)

    @cached_property
    def promised(self) -> float:
        """Return the share of answers that must be right; where nothing says so, `DROP` less than it was before."""
        least = promised(self.recording, self.criteria)
        return 1 - float(misses(self.recording, self.before).mean()) - DROP if least is None else least

    @cached_property
    def answers_alike(self) -> bool:
        """Whether the last good version gives the answers of the current one, wherever both were replayed."""
        if self.unreplayed:
            return False
        apart = self.task.distance(self.replayed["current"], self.replayed["last_good"])
        return bool(len(apart) and apart.mean() <= self.task.same)

    @cached_property
    def deployments(self) -> tuple[Deployment, ...]:
        """Return the deployments that changed the version: not a service's first start, before which none answered."""
        known = sorted(self.recording.incident.deployments, key=lambda item: item.time)
        is_first = bool(known) and not (self.requests["time"] < pd.Timestamp(known[0].time)).any()
        window = self.recording.incident.window
        return tuple(known[1:] if is_first and known[0].time >= window.start else known)

    @cached_property
    def inputs(self) -> pd.DataFrame:
        """Return the inputs of the requests, with the index of `requests`."""
        return self.recording.features(self.requests).set_axis(self.requests.index)

    @cached_property
    def categories(self) -> pd.DataFrame:
        """Return those inputs of the requests that are text, with the index of `requests`."""
        return self.recording.categories(self.requests).set_axis(self.requests.index)

    @cached_property
    def unreadable(self) -> str:
        """Say which inputs tell nothing of what the onset changed; nothing where all do."""
        learnt = self.recording.reference.select_dtypes("number")
        if texts := [str(name) for name in self.categories if name in learnt and learnt[name].notna().any()]:
            return f"{', '.join(texts[:5])}: the model learnt from numbers, and the requests hold text"
        lacking = self.breaches.loc[self.before.index, "missing"].mean()
        return f"{lacking:.0%} of the rows before the onset lack a value, too" if lacking > MOST_LACKING else ""

    @cached_property
    def whole_inputs(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the inputs before and since the onset, of the rows that lack no value and are not asked again.

        A thousand requests for one row show no more of the feed than one; they show the load.
        """
        finite = self.anew(self.inputs[is_whole(self.recording)])
        is_before = finite.index.isin(self.before.index)
        return finite[is_before], finite[~is_before]

    def anew(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that are not asked again, where rows follow on each other; elsewhere all of them."""
        return asked_anew(table) if self.recording.incident.declaration.time_series else table

    @cached_property
    def two_sample(self) -> TwoSample | str:
        """Return how well a classifier tells the inputs since the onset from those before, or why it was not asked."""
        before, during = (side.join(self.categories) for side in self.whole_inputs)
        if min(len(before), len(during)) < self.criteria.least_rows or before.columns.empty:
            return f"{len(before)} whole rows of inputs before the onset and {len(during)} since"
        return two_sample(sampled(before, MOST_COMPARED), sampled(during, MOST_COMPARED))

    @cached_property
    def following(self) -> pd.Series:
        """Tell for each request whether its values follow on an earlier one's, as they did at first."""
        return following(self.inputs.assign(actual=self.requests["actual"]))


def build_case(recording: Recording, criteria: Criteria | None = None) -> Case:
    """Split the requests of a recording at the onset, and replay them.

    Rows far outside of the incident's window are left out: their clock is wrong, and nothing tells by how much.
    """
    criteria = criteria or Criteria()
    recording = settled(within_window(recording))
    if recording.task is not None and recording.task.name == "text" and "rating" in recording.requests:
        told = recording.requests["actual"].fillna(recording.requests["rating"])  # readers judge a text
        recording = replace(recording, requests=recording.requests.assign(actual=told))
    breaches = contract_breaches(recording)
    changes = tuple(changes_of(recording, breaches, criteria))
    dated = find_onset(recording, changes, criteria)
    sound = is_whole(recording) & ~breaches.to_numpy(bool).any(axis=1)
    replayed, unreplayed = replays(recording, recording.requests[sound])
    return Case(recording, criteria, dated, recording.requests, breaches, changes, replayed, unreplayed)


def settled(recording: Recording) -> Recording:
    """Leave out the last requests of a slow service, of which only those that it refused at once are known yet.

    As long as its slowest recent answer took, what came before the end of the window may still be unanswered.
    """
    requests = recording.requests
    slowest = requests["latency_ms"].tail(RECENT).max() / 1000 if len(requests) else 0.0
    window = recording.incident.window
    if not SLOW_SECONDS <= slowest < (window.end - window.start).total_seconds():  # longer than that is no measurement
        return recording
    known = requests["time"] < window.end - pd.Timedelta(seconds=slowest)
    return replace(recording, requests=requests[known].reset_index(drop=True)) if known.any() else recording


RECENT, SLOW_SECONDS = 500, 0.5
"""Requests whose answers tell how slow a service is, and from where on it matters."""


def sampled(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return at most this many rows of a table, drawn at random, the same each time, and left in order.

    Every n-th row would pick some days only where the same days are asked about again and again.

    >>> sampled(pd.DataFrame({"a": range(9)}), 3)["a"].is_monotonic_increasing
    True
    """
    return table if len(table) <= most else table.sample(most, random_state=0).sort_index()


def replays(
    recording: Recording, requests: pd.DataFrame, roles: Sequence[str] = ("current", "last_good")
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Return what the current and the last good version answer to some requests, and why one of them does not."""
    replayed, unreplayed = {}, {}
    for role in roles:
        version: str | None = getattr(recording.incident.versions, role)
        if version is None:
            unreplayed[role] = "the recording names no last good version"
        elif version not in recording.models:
            unreplayed[role] = f"the recording holds no models/{version}"
        elif requests.empty:
            unreplayed[role] = "no request whose inputs keep the contract"
        else:
            try:
                replayed[role] = replay(recording, requests, version)
            except InputError as error:
                told = str(error).replace(str(recording.models[version]), f"models/{version}")
                unreplayed[role] = printable(told, 200)
    return replayed, unreplayed


def within_window(recording: Recording) -> Recording:
    """Return a recording without the requests, samples and log lines whose times lie far outside of its window."""

    def kept(table: pd.DataFrame) -> pd.DataFrame:
        return table[is_inside(table["time"], recording.incident.window)].reset_index(drop=True)

    return replace(
        recording, requests=kept(recording.requests), metrics=kept(recording.metrics), logs=kept(recording.logs)
    )


def replay(recording: Recording, requests: pd.DataFrame, version: str) -> pd.DataFrame:
    """Return what one version of the recording answers to some of its requests, with their index."""
    inputs = recording.inputs(requests)
    categorical = tuple(map(str, inputs.select_dtypes(exclude=["number", "bool"])))
    model = load_model(recording.models[version], recording.task, categorical=categorical)
    return model.predict(inputs).set_axis(requests.index)


def answered_by(case: Case, role: str) -> pd.DataFrame:
    """Return the requests of a case as if a replayed version (`current`, `last_good`) had answered them."""
    answers = case.replayed[role]
    return case.requests.loc[answers.index].drop(columns=answers.columns).join(answers)


def onset_table(case: Case) -> pd.DataFrame:
    """Return what moved and when: for every symptom its change point, the mean before and since, and what it means.

    Returns
    -------
    DataFrame
        `symptom`, `since` (UTC), `before`, `after` (geometric means where the unit is `×`), `change` (after − before,
        or after ÷ before where the unit is `×`), `unit`, `p`, `counts` (whether it is large, and not by chance).
        A symptom that never varies has no change point and no row.
    """
    rows = []
    for symptom, change in case.changes:
        if change:
            counts = symptom.counts(change, case.criteria.alpha)
            before, after = change.before, change.after
            if symptom.unit == "×":
                before, after = float(np.exp(before)), float(np.exp(after))
            amount = after / before if symptom.unit == "×" else after - before
            rows.append((symptom.name, onset_of(change), before, after, amount, symptom.unit, change.p_value, counts))
    return pd.DataFrame(rows, columns=["symptom", "since", "before", "after", "change", "unit", "p", "counts"])


LONG_WINDOW = pd.Timedelta(days=14)
"""A time in a window of this length is shown by its day alone."""


def time_format(recording: Recording) -> str:
    """Return how the times of a recording are written: days where it spans weeks, seconds where it spans minutes."""
    window = recording.incident.window
    return "%Y-%m-%d" if window.end - window.start >= LONG_WINDOW else "%Y-%m-%d %H:%M:%S"
