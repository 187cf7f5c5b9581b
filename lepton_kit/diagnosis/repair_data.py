"""What follows from a recording for a faulty feed: fixes for the running service, rows to keep out, a feed to restart.

Each question is one function: which unit changed, which columns were exchanged, what is missing, what stands still,
whether the actuals are wrong. All compare the rows since the onset with those before it, or with the rows that the
model learnt from where too few came before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from lepton_kit.data.drift import kolmogorov_smirnov
from lepton_kit.data.input_fixes import LAST, InputFixes, listed
from lepton_kit.diagnosis.case import Case, build_case, replays
from lepton_kit.diagnosis.evidence.drift import moved_categories
from lepton_kit.diagnosis.evidence.mix import lost_kinds
from lepton_kit.diagnosis.means import Step, Way
from lepton_kit.diagnosis.plans import Operator, Plan, remedy
from lepton_kit.diagnosis.rows import RELATED, agreement, asked_anew, contract_breaches, follows, unit_factors, varying
from lepton_kit.telemetry.health import signal_growth
from lepton_kit.telemetry.recordings import FEATURE, Recording

if TYPE_CHECKING:  # PyTorch: only for who trains
    from lepton_kit.models.training import Examples

ALIKE, APART = 0.35, 0.4
"""Kolmogorov–Smirnov distance up to which two samples may be of one feature, and from which on they are not."""

AT_HOME = 0.1
"""By so much farther a column may be from its own values than from another's, before it counts as exchanged."""

FOLLOWS = 0.6
"""One column follows another where its value is the other's value of the row before in this share of the rows."""

LEAST_RISE = 0.05
"""Rise of a share of rows, from before the onset to after it, that is acted upon."""

STANDS_STILL = 0.25
"""Share of one and the same row, or of the time with stale data, from which on a feed stands still."""

MOST = 0.5
"""Where more than this share of the features is missing at times, any of them may be at another time."""

LEAST_ROWS = 20
"""Fewer rows on a side are not compared."""

FEED_SAID: Mapping[Way, str] = {"restart_feed": "the feed was restarted", "stop_feed": "the feed was stopped"}


@dataclass(frozen=True)
class DataPlan(Plan):
    """What to do about a faulty feed.

    Parameters
    ----------
    fixes
        What the service does to each row; planned on rows as the service used them, so it comes after fixes that
        are in force already (`InputFixes.then`).
    quarantined
        Requests since the onset whose rows break the contract even when fixed: nothing is learnt from them.
    restart_feed
        Whether the feed itself must be restarted: no fix gives values that never came.
    is_late
        Whether the feed goes on and is late: its source must catch up, and nothing that is done here helps.
    retrain
        Whether the model itself no longer meets its objective on whole rows, because the world has changed.
    coverage
        Share of known actuals that the version in service would hold on the fixed rows; NaN where that is not known.
    reasons
        What was found, a sentence each.
    is_broken
        Whether more rows than before break the contract, as they came.
    """

    input_fixes: InputFixes
    quarantined: pd.DataFrame
    restart_feed: bool
    retrain: bool
    coverage: float
    reasons: tuple[str, ...]
    is_late: bool = False
    is_broken: bool = False

    @property
    def action(self) -> str:
        """Return in words what the plan does to a service."""
        fixes = self.input_fixes
        said = [f"rescale {_named(fixes.scale)}"] if fixes.scale else []
        said += [f"put {name} and {other} back" for name, other in fixes.swap.items()]
        said += [f"fill {_named(fixes.fill)} where they are missing"] if fixes.fill else []
        said += ["refuse broken rows and keep them aside"] if fixes.quarantine else []
        said += ["restart the feed"] if self.restart_feed else []
        said += ["nothing here: the source of the feed must catch up"] if self.is_late else []
        return "; ".join(said) or "nothing to do"

    def steps(self) -> Sequence[Step]:
        """Return the fixes and the restart of the feed; a feed whose rows keep their contract is never stopped."""
        feed: tuple[Way, ...] = ("restart_feed", "stop_feed") if self.is_broken else ("restart_feed",)
        fix = Step(("fix_inputs", *feed), f"fix the rows on their way to the service ({self.action})")
        return ([fix] if self.input_fixes else []) + ([Step(feed, "restart the feed")] if self.restart_feed else [])

    def carry_out(self, operator: Operator) -> tuple[str, ...]:
        """Turn the fixes on beside those in force, and restart or stop the feed; return what was done."""
        why, done = "; ".join(self.reasons), []
        for way in self.means(operator.ways).ways:
            if way == "fix_inputs":
                state = operator.state()
                fixes = state.input_fixes.then(self.input_fixes)
                operator.set_state(replace(state, input_fixes=fixes), why)
                done.append(f"input fixes turned on: {fixes.summary}")
            else:
                operator.act_on_feed(way, why)
                done.append(FEED_SAID[way])
        return tuple(done)


def _named(features: Collection[str], most: int = 3) -> str:
    return ", ".join(features) if len(features) <= most else f"{len(features)} features"


@remedy("data", runbook="repair-data")
def plan_data(recording: Recording) -> DataPlan:
    """Say what to do about a feed, from the recording of an incident.

    >>> from lepton_kit.telemetry.recordings import FORMAT, Incident
    >>> incident = Incident(format=FORMAT, id="x", service="demo", versions={"current": "1"},
    ...                     window={"start": "2008-01-01T00:00Z", "end": "2008-02-01T00:00Z"})
    >>> plan_data(Recording(incident)).reasons
    ('nothing in the recorded rows asks for a fix',)
    """
    case = build_case(recording)
    sound = _baseline(case)
    fixes = _fixes(case, sound)
    used = _used(case, fixes, sound)
    breaches = contract_breaches(used).loc[case.during.index]
    lost = [said for said in (_stopped(case), _repeated(case), _lost(case)) if said]
    behind = [] if lost or fixes else [said for said in (_late(case),) if said]
    if not fixes and (wrong := _wrong_actuals(case)):
        lost.append(wrong)
        breaches = breaches.assign(actuals=True)
    left = breaches[["missing", "out_of_range"]].any(axis=1)
    if fixes.fill:  # a row that was recorded as a whole missing may have lacked one value only
        left &= ~used.features(case.during).isna().all(axis=1).to_numpy()
    refused = float(left.mean()) if len(left) else 0.0
    fixes = fixes.model_copy(update={"quarantine": refused >= LEAST_RISE})
    broken = breaches.index[breaches.any(axis=1)]
    coverage, judged, why_not = _coverage(used, case.during.index.difference(broken))
    said = [*_said_of(fixes), *lost, *behind]
    if fixes.quarantine:
        said.append(f"{refused:.0%} of the rows break the contract even when fixed: they are refused and kept aside")
    if judged:
        said.append(f"on {judged} whole rows {coverage:.1%} of the answers of the version in service would be right")
    elif why_not:
        said.append(f"whether the version in service would be right on whole rows was not checked: {why_not}")
    return DataPlan(
        input_fixes=fixes,
        quarantined=case.requests.loc[broken],
        restart_feed=bool(lost),
        retrain=not lost and judged >= LEAST_ROWS and coverage < case.promised,
        coverage=coverage,
        is_late=bool(behind),
        is_broken=_rise(case, case.breaches.any(axis=1)) >= LEAST_RISE,
        reasons=tuple(said) or ("nothing in the recorded rows asks for a fix",),
    )


def size_table(recording: Recording, plan: DataPlan) -> pd.DataFrame:
    """Return the median size of each feature since the onset, times that of the sound rows before it.

    Its columns are `came`, as the rows came, and `used`, as they would be with the plan's fixes.
    """
    case = build_case(recording)
    sound = _baseline(case)
    used = _used(case, plan.input_fixes, sound)
    usual = sound.abs().median()
    sides = {"came": case.during, "used": used.requests.loc[case.during.index]}
    return pd.DataFrame({name: recording.features(rows).abs().median() / usual for name, rows in sides.items()})


def missing_table(recording: Recording) -> pd.DataFrame:
    """Return the share of rows in which each feature is missing, `before` and `since` the onset.

    A row that was refused lacks all, as it was recorded.
    """
    case = build_case(recording)
    sides = {"before": case.before, "since": case.during}
    return pd.DataFrame({name: recording.features(rows).isna().mean() for name, rows in sides.items()})


def fixes_table(fixes: InputFixes) -> pd.DataFrame:
    """Return what fixes do to each feature, as a table: `feature`, `fix`.

    >>> fixes_table(InputFixes(scale={"return_0": 0.01}, fill={"volume_0": "last"})).to_dict("list")
    {'feature': ['return_0', 'volume_0'], 'fix': ['× 0.01', 'where it is missing: the last value']}
    """
    filled = {name: "the last value" if value == LAST else f"{value:.4g}" for name, value in fixes.fill.items()}
    rows = [
        *((name, f"× {factor:g}") for name, factor in fixes.scale.items()),
        *((name, f"exchanged with {other}") for name, other in fixes.swap.items()),
        *((name, f"where it is missing: {value}") for name, value in filled.items()),
        *([("every row", "refused and kept aside where it breaks the contract")] if fixes.quarantine else []),
    ]
    return pd.DataFrame(rows, columns=["feature", "fix"])


def rows_to_learn_from(recording: Recording, plan: DataPlan | None = None) -> tuple[Examples, pd.DataFrame]:
    """Return the rows of a recording that a model may learn from, in order of time, and a log of what was left out.

    Rows since the onset are fixed as the plan says (there is none where the data are not at fault), and those that it
    quarantines are left out, as are requests without a known actual or without whole inputs, and all but the first of
    those that asked for one period. The log has `why`, `rows_in`, `rows_out`.
    """
    from lepton_kit.models.training import Examples

    case = build_case(recording)
    if plan is not None:
        rows = _used(case, plan.input_fixes, _baseline(case)).requests.drop(index=plan.quarantined.index)
    else:
        rows = case.requests
    features = [name for name in map(str, rows) if name.startswith(FEATURE)]
    steps = {
        "refused as broken": rows,
        "without a known actual": rows.dropna(subset=["actual"]),
        "without whole inputs": rows.dropna(subset=["actual", *features]),
    }
    steps["asked for again"] = steps["without whole inputs"].drop_duplicates([*features, "actual"])
    steps["at a time that was there already"] = steps["asked for again"].drop_duplicates("time").sort_values("time")
    counts = [len(recording.requests), *map(len, steps.values())]
    log = pd.DataFrame({"why": list(steps), "rows_in": counts[:-1], "rows_out": counts[1:]})
    kept = steps["at a time that was there already"]
    inputs = recording.features(kept)
    return Examples(inputs, kept.set_index("time")["actual"]), log


def exchanged_columns(sound: pd.DataFrame, since: pd.DataFrame) -> dict[str, str]:
    """Return pairs of features whose values came in each other's column.

    Columns that hold one quantity at several lags form a chain: each value moves on by a column with every row. So a
    changed order of the lags is seen in the order of the chain, and a chain is compared with others as a whole, by
    the distribution of its values (Kolmogorov–Smirnov distance, assignment of least total distance).

    >>> rng = np.random.default_rng(0)
    >>> rows = pd.DataFrame({"return_0": rng.normal(0, 1, 80), "range_0": rng.gamma(3, 1, 80)})
    >>> exchanged_columns(rows, rows.rename(columns={"return_0": "range_0", "range_0": "return_0"}))
    {'return_0': 'range_0'}
    """
    names = [name for name in map(str, sound) if name in since and sound[name].nunique() > 1]
    if min(len(sound), len(since.dropna())) < LEAST_ROWS or len(names) < 2:
        return {}
    was, now = sound[names], since[names].dropna()
    out = ((now < was.min()) | (now > was.max())).any(axis=1)  # beyond all that sound rows ever showed
    if out.mean() >= 2 * LEAST_RISE and out.sum() >= LEAST_ROWS:
        now = now[out]
    before, after = _chains(was), _chains(now)
    if sorted(map(len, before)) != sorted(map(len, after)):  # rows that do not follow on each other
        after = before  # so the lags count as being in their order
    source = _matched(was, before, now, after)
    moved = {name: taken for name, taken in source.items() if name != taken}
    if any(moved.get(taken) != name for name, taken in moved.items()):
        return {}  # columns went round, which no pairs undo
    return {name: taken for name, taken in moved.items() if names.index(name) < names.index(taken)}


def _chains(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return groups of lagged columns: each repeats what the one before it had a row earlier."""
    follower = _followers(rows)
    heads = [name for name in map(str, rows) if name not in set(follower.values())]
    found = []
    for head in heads:
        chain = [head]
        while chain[-1] in follower and follower[chain[-1]] not in chain:
            chain.append(follower[chain[-1]])
        found.append(tuple(chain))
    return found


def _followers(rows: pd.DataFrame) -> dict[str, str]:
    """Return for each column the one that holds its values a row later."""
    new = asked_anew(rows)
    varied = [str(name) for name in new.columns[varying(new)]]
    if len(new) < LEAST_ROWS or len(varied) < 2:
        return {}
    shares = agreement(new[varied]).unstack()  # a row per column that may follow
    follower: dict[str, str] = {}
    for name in varied:
        others = shares[name].drop(index=name)
        if others.max() >= FOLLOWS:
            follower[name] = str(others.idxmax())
    return follower


def _matched(
    was: pd.DataFrame, before: Sequence[tuple[str, ...]], now: pd.DataFrame, after: Sequence[tuple[str, ...]]
) -> dict[str, str]:
    """Return for each column the one that now holds its values: itself, unless both chains of a move are clear."""
    source = {name: name for chain in before for name in chain}
    for length in {len(chain) for chain in before}:
        rows, columns = ([one for one in side if len(one) == length] for side in (before, after))
        if len(rows) != len(columns):
            continue  # the lags of a chain are lost: nothing tells which is which
        distance = np.array([[_distance(was, one, now, other) for other in columns] for one in rows])
        own = np.array([[set(one) == set(other) for other in columns] for one in rows])
        for row, column in zip(*linear_sum_assignment(distance - AT_HOME * own), strict=True):
            at_home = distance[row][own[row]]
            may_leave = own[row, column] or not at_home.size or at_home[0] >= APART
            if may_leave and distance[row, column] <= ALIKE:
                source.update(zip(rows[row], columns[column], strict=True))
    return source


def _distance(was: pd.DataFrame, one: Sequence[str], now: pd.DataFrame, other: Sequence[str]) -> float:
    return kolmogorov_smirnov(was[list(one)].to_numpy().ravel(), now[list(other)].to_numpy().ravel())[0]


def _fillings(since: pd.DataFrame, sound: pd.DataFrame) -> dict[str, float | str]:
    """Return what takes the place of each feature that is missing at times: the last value, or the usual one.

    Whichever would have been nearer to the true values of the sound rows, on average. Every feature is filled where
    most of them are missing at times, as the rest is then only lucky so far; and where rows are missing as a whole,
    which may have been refused for any of their values.

    >>> sound = pd.DataFrame({"trend": np.arange(40.0), "noise": np.tile([1.0, -1.0, 0.0, 0.0], 10)})
    >>> _fillings(pd.DataFrame({"trend": [40.0, np.nan], "noise": [np.nan, 0.0]}), sound)
    {'trend': 'last', 'noise': 0.0}
    """
    absent = _absent(since)
    partly = absent[~absent.all(axis=1)].any()
    wanted = absent.any() if not partly.any() else partly
    if partly.sum() > 1 and partly.mean() > MOST:
        wanted[:] = True
    return {name: _filling(sound[name]) for name in map(str, since) if wanted[name] and name in sound and len(sound)}


def _filling(sound: pd.Series) -> float | str:
    usual = float(sound.median())
    by_last, by_usual = (sound - sound.shift()).abs().mean(), (sound - usual).abs().mean()
    return LAST if by_last < by_usual else usual


def _stopped(case: Case) -> str:
    """Say how the feed stands still, or nothing."""
    stale = _rise(case, case.breaches["stale"])
    if stale >= LEAST_RISE:
        return f"{stale:.0%} more rows than before repeat the last values, though new ones were due"
    before, during = (
        rows.value_counts(normalize=True).iloc[0] if rows.size else 0.0  # of the row that comes most often
        for rows in (case.inputs.loc[side.index].dropna() for side in (case.before, case.during))
    )
    if during >= STANDS_STILL and during >= 2 * before:
        return f"one row makes up {during:.0%} of all since the onset"
    share = _stale_share(case)
    is_silent = share >= STANDS_STILL and len(case.during) < LEAST_ROWS
    return f"the newest data were stale in {share:.0%} of the time, and hardly a row came" if is_silent else ""


def _lost(case: Case) -> str:
    """Say which kinds of rows the feed no longer delivers, or nothing."""
    table = moved_categories(case)
    lost = {str(name): kinds for name in table.index[table["moved"]] if (kinds := lost_kinds(case, str(name)))}
    told = "; ".join(f"{name} {' and '.join(kinds)}" for name, kinds in lost.items())
    return f"rows of {told} come at most half as often as before" if told else ""


def _late(case: Case) -> str:
    """Say how the newest data came too late, or nothing."""
    share = _stale_share(case)
    if share < STANDS_STILL:
        return ""
    return (
        f"the newest data were stale in {share:.0%} of the time, though the rows go on: the feed is late and does not "
        "stand still, so that a restart brings nothing newer; its source must catch up"
    )


def _repeated(case: Case) -> str:
    """Say how many requests were sent twice, or nothing."""
    rise = _rise(case, case.breaches["duplicated"])
    return f"{rise:.0%} more requests than before carry an id that was answered already" if rise >= LEAST_RISE else ""


def _wrong_actuals(case: Case) -> str:
    """Say how the actuals disagree with the inputs that are made of them, or nothing.

    Before the onset an actual stands among the inputs of a later row. Where it no longer does, and the inputs among
    each other go on as before, it is the actuals that are wrong; or the inputs, where it is they that changed more.
    """
    if not case.recording.incident.declaration.time_series:
        return ""
    table = asked_anew(case.inputs.assign(actual=case.requests["actual"]))
    before = table.loc[table.index.isin(case.before.index)]
    if len(before) < LEAST_ROWS or not before["actual"].notna().any():
        return ""
    shares = agreement(before)
    known = [(str(one), str(other)) for one, other in shares.index[shares >= RELATED]]
    of_actuals, of_inputs = ([p for p in known if ("actual" in p) is with_actual] for with_actual in (True, False))
    if not (of_actuals and of_inputs):
        return ""
    lost, still_lost = (_rise(case, ~follows(table, pairs)) for pairs in (of_actuals, of_inputs))
    first = next(name for name in of_actuals[0] if name != "actual")
    moved = {name: kolmogorov_smirnov(*_sides(case, table[name]))[0] for name in (first, "actual")}
    if lost < LEAST_RISE or still_lost >= LEAST_RISE or moved[first] >= moved["actual"]:
        return ""
    return f"{lost:.0%} more actuals than before are not what {first} shows later, while the inputs go on as they did"


def _sides(case: Case, values: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return the known values before and since the onset."""
    known = values.dropna()
    is_before = known.index.isin(case.before.index)
    return known[is_before], known[~is_before]


def _baseline(case: Case) -> pd.DataFrame:
    """Return sound rows of the features: those before the onset that keep the contract, or else the training rows."""
    whole = ~case.breaches.loc[case.before.index].any(axis=1)
    before = case.recording.features(case.before[whole])
    learnt = case.recording.reference.select_dtypes("number")
    names = [name for name in before if name in learnt]
    return before if len(before) >= LEAST_ROWS or not names else learnt[names]


def _fixes(case: Case, sound: pd.DataFrame) -> InputFixes:
    since = case.recording.features(case.during)
    scale = {name: 1 / factor for name, factor in unit_factors(sound, since)[0].items()}
    swap = exchanged_columns(sound, InputFixes(scale=scale).applied(since, sound))
    exchanged = InputFixes(swap=swap).exchanged()
    fixes = InputFixes(scale={exchanged.get(name, name): factor for name, factor in scale.items()}, swap=swap)
    missing = _absent(case.recording.features(case.requests)).any(axis=1).set_axis(case.requests.index)
    if _rise(case, missing) < LEAST_RISE:
        return fixes
    return fixes.model_copy(update={"fill": _fillings(fixes.applied(since, sound), sound)})


def _absent(features: pd.DataFrame) -> pd.DataFrame:
    """Tell which values are missing or not finite."""
    return features.replace([np.inf, -np.inf], np.nan).isna()


def _used(case: Case, fixes: InputFixes, sound: pd.DataFrame) -> Recording:
    """Return the recording as if the fixes had been in force since the onset."""
    during = case.recording.features(case.during)
    values = fixes.applied(during, sound).set_axis(case.during.index).add_prefix(FEATURE)
    requests = case.requests.copy()
    requests.loc[values.index, values.columns] = values
    return replace(case.recording, requests=requests)


def _rise(case: Case, rows: pd.Series) -> float:
    """Return by how much the share of such rows rose at the onset."""
    before, during = _sides(case, rows.astype(float))
    return float(during.mean() - (before.mean() if len(before) else 0.0)) if len(during) else 0.0


def _stale_share(case: Case) -> float:
    """Return the share of the time since the onset in which the newest data were stale, as the service counts it."""
    window = case.onset.timestamp(), case.recording.incident.window.end.timestamp()
    stale, known = (signal_growth(case.recording, role, *window) for role in ("stale_seconds", "watched_seconds"))
    return stale / known if known > 0 else 0.0


def _coverage(used: Recording, rows: pd.Index) -> tuple[float, int, str]:
    """Return the share of actuals that the version in service would hold on these rows, how many, and why not."""
    requests = used.requests.loc[rows].dropna(subset=["actual"])
    if used.incident.versions.current not in used.models or requests.empty or used.task is None:
        return float("nan"), 0, ""
    replayed, unreplayed = replays(used, requests, ["current"])
    if unreplayed:
        return float("nan"), 0, unreplayed["current"]
    hits = used.task.hit(replayed["current"], requests["actual"]).dropna()
    return float(hits.mean()), len(hits), ""


def _said_of(fixes: InputFixes) -> list[str]:
    by_factor: dict[float, list[str]] = {}
    for name, factor in fixes.scale.items():
        by_factor.setdefault(factor, []).append(name)
    said = [f"{listed(names)}: {1 / factor:g} times as large as before" for factor, names in by_factor.items()]
    said += [f"{name} and {other} come in each other's column" for name, other in fixes.swap.items()]
    for words, is_last in (("last", True), ("usual", False)):
        if names := [name for name, value in fixes.fill.items() if (value == LAST) is is_last]:
            said.append(f"{listed(names)}: missing at times; the {words} value is nearest to what they would be")
    return said
