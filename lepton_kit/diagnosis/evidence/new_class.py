"""Tells a class that is new to the world from known ones under another name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

import pandas as pd

from lepton_kit.data.drift import effect_sizes, two_sample
from lepton_kit.diagnosis.case import MOST_COMPARED, Case, sampled
from lepton_kit.diagnosis.evidence.base import Evidence, answer, is_apart, share_p_value

CLOSE = 0.8
"""Names of classes that are as alike as this (`difflib`) may be one name, misspelt."""


def new_classes(case: Case) -> Evidence | None:
    """Return what new classes tell (`label_drift`); None where none came true since the onset, or rows are too few.

    Known are those that the training rows, the requests before the onset and the answers have. The χ² test is of the
    known ones among themselves: whether they went on as before.
    """
    judged = case.task.judged(case.requests)
    classes, is_before = judged["actual"].astype(str), judged.index.isin(case.before.index)
    before, during = classes[is_before], classes[~is_before]
    least = case.criteria.least_rows
    if min(len(before), len(during)) < least:
        return None
    learnt = set(case.recording.reference.get("actual", pd.Series(dtype=str)).dropna().astype(str))
    known = {*learnt, *before, *judged["label"].astype(str)}
    is_new = ~during.isin(known)
    share = float(is_new.mean())
    if share < case.criteria.broken_share:
        return None
    names = list(map(str, during[is_new].value_counts().index))
    told = f"{share:.1%} of the actuals since the onset are of a class that was not known: {_listed(names)}"
    sides = before, during[~is_new]
    respelt = during.isin(_spelt_like(names, known))
    if respelt.mean() >= case.criteria.broken_share:
        told += f"; {_listed(during[respelt].unique())} are known ones in another spelling"
        return answer("in place of known", told, share, "share of actuals")
    if len(sides[1]) < least:
        return answer("in place of known", told, share, "share of actuals")
    p_value = float(effect_sizes(*(side.to_frame() for side in sides)).iloc[0]["chi2_p"])
    shares = [side.value_counts(normalize=True) for side in sides]
    usual = shares[0][shares[0] >= case.criteria.broken_share]
    is_moved = p_value < case.criteria.alpha and (shares[1].reindex(usual.index, fill_value=0.0) < usual / 2).any()
    if is_moved:
        return answer("in place of known", told, share, "share of actuals", p_value)
    misses = 1 - case.task.hit(judged, judged["actual"])
    was, since = (misses[side.index] for side in sides)
    if since.mean() > was.mean() and share_p_value(was, since) < case.criteria.alpha:
        return answer("known ones missed", told, share, "share of actuals", p_value)
    doubt = _doubt(case, names, known, learnt) or _inputs_alike(case, judged.loc[during.index], is_new)
    return answer("unclear" if doubt else "new class", told + doubt, share, "share of actuals", p_value)


def _doubt(case: Case, names: list[str], known: set[str], learnt: set[str]) -> str:
    """Say why a class may not be new by its name, or by what is not known; nothing where it is."""
    if not learnt:
        return "; what the version has learnt is not known: there are no training rows with their classes"
    plain = {_plain(one) for one in known}
    if close := [one for one in names if get_close_matches(_plain(one), plain, 1, CLOSE)]:
        return f"; {_listed(close)} is written almost like a known one"
    return ""


def _inputs_alike(case: Case, judged: pd.DataFrame, is_new: pd.Series) -> str:
    """Say that the inputs of new classes' rows are those of known ones that were answered alike; else nothing.

    A known class by another name is asked as before, and so answered as before. So of each answer as many rows are
    compared of the one kind as of the other; rows whose answer no known one got are compared with known ones at random.
    """
    inputs = pd.concat(case.whole_inputs).join(case.categories)
    inputs = inputs.loc[inputs.index.intersection(judged.index)]
    is_new, answers = is_new[inputs.index], judged.loc[inputs.index, "label"].astype(str)
    answers = answers.where(answers.isin(answers[~is_new]), "")
    parts = []
    for told, held in answers.groupby(answers):
        new = held[is_new[held.index]]
        alike = held[~is_new[held.index]] if told else answers[~is_new]
        count = min(len(new), len(alike))
        parts.append([one.sample(count, random_state=0).index for one in (new, alike)])
    rows = [pd.Index([]).append(list(side)).unique() for side in zip(*parts, strict=True)] if parts else [pd.Index([])]
    if min(map(len, rows)) < case.criteria.least_rows or inputs.columns.empty:
        return "; too few rows tell whether its inputs are others than those of known ones"
    new_rows, known_rows = (sampled(inputs.loc[side].sort_index(), MOST_COMPARED) for side in rows)
    found = two_sample(known_rows, new_rows)
    if is_apart(found, case):
        return ""
    return f"; the inputs of its rows are those of known ones that were answered alike (AUC {found.auc:.2f})"


def _spelt_like(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the names that are those of known classes but for case, spaces and punctuation.

    >>> _spelt_like(["Card", "lost-card ", "recall"], ["card", "Lost card"])
    ['Card', 'lost-card ']
    """
    plain = {_plain(one) for one in known}
    return [one for one in names if _plain(one) in plain]


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-./]+", "", unicodedata.normalize("NFKC", name).casefold())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, list(names)[:3]))
