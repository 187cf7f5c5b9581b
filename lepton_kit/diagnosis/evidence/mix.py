"""Tells rows of other kinds from rows that are answered otherwise: a category's mix, and what it alone explains."""

from __future__ import annotations

import pandas as pd

from lepton_kit.data.drift import effect_sizes
from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence.base import Evidence, answer, evidence, need_rows, share_p_value
from lepton_kit.diagnosis.evidence.drift import moved_categories
from lepton_kit.diagnosis.onset import DROP

COMMON, HALF = 0.1, 0.5
"""A kind is common from this share of the rows on, and lost where it comes half as often, of all and in time."""

AS_EXPECTED = 0.1
"""Up to this population stability index beyond chance nothing moved (Siddiqi 2006)."""


@evidence(needs=("task", "requests.features", "requests.target"))
def mix(case: Case) -> Evidence:
    """Answer whether a category came in another mix, and if that explains the rest: `lost`, `grown`, `more`, `steady`.

    Kinds are the values of the category that moved most. Rows from before the onset, drawn anew in the mix since, say
    what comes true and is missed by the mix alone (direct standardisation). Where it came so, common kinds were `lost`:
    a feed no longer delivers them; or none was, and others have `grown`. Where it did not, there is `more`, as where a
    kind is new.
    """
    table = moved_categories(case)
    if not table["moved"].any():
        return answer("steady", "no category came in another mix")
    name = str(table.index[table["moved"]][0])
    missed = case.task.misses(case.requests)
    judged = case.requests.loc[missed.index, ["actual"]].assign(kind=case.categories[name], missed=missed > 0).dropna()
    before, during = (judged[judged.index.isin(side.index)] for side in (case.before, case.during))
    need_rows(case, before, during, "judged rows")
    was, since = (side["kind"].value_counts(normalize=True) for side in (before, during))
    told = f"{name}: " + ", ".join(
        f"{kind} {was[kind]:.0%} before, {since.get(kind, 0):.0%} since" for kind in was.index[:4]
    )
    known = was.index[was * len(before) >= case.criteria.least_rows]
    expected = before.sample(
        len(before), replace=True, weights=before["kind"].map(since / was).fillna(0), random_state=0
    )
    by_chance = min(expected["actual"].nunique(), 9) * (1 / len(before) + 1 / len(during))
    apart = float(effect_sizes(expected[["actual"]], during[["actual"]])["psi"].iloc[0]) - by_chance
    rise = float(during["missed"].mean() - expected["missed"].mean())
    told += f"; beyond the mix the actuals moved by a PSI of {max(apart, 0):.2f}, the misses by {rise:+.1%}"
    is_missed_otherwise = (
        abs(rise) >= DROP and share_p_value(expected["missed"], during["missed"]) < case.criteria.alpha
    )
    if is_missed_otherwise or apart >= AS_EXPECTED or 1 - since.reindex(known).sum() >= case.criteria.broken_share:
        return answer("more", told, rise, "change of share")
    return answer("lost" if lost_kinds(case, name) else "grown", told, rise, "change of share")


def lost_kinds(case: Case, name: str) -> list[str]:
    """Return the common values of a category that come at most half as often since the onset, of all and by time.

    None where others are new: then it may be another spelling.
    """
    window, onset = case.recording.incident.window, case.onset
    was, since = (case.categories.loc[side.index, name].value_counts() for side in (case.before, case.during))
    if since.drop(was.index, errors="ignore").sum() >= case.criteria.broken_share * since.sum():
        return []
    since = since.reindex(was.index, fill_value=0)
    longer = (window.end - onset) / max(onset - window.start, pd.Timedelta(seconds=1))
    share = was / was.sum()
    is_lost = (share >= COMMON) & (since <= HALF * longer * was) & (since <= HALF * share * since.sum())
    return list(map(str, was.index[is_lost]))
