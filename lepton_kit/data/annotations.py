"""What people answered about labels: the table that they edit, its rules, the majority, and how far they agree.

A table has one line per row and labeller, with the columns `id`, `label`, `labeller` and `labelled_at`. Read tables are
DataFrames of these, called annotations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.errors import InputError

ANSWER = ["label", "labeller", "labelled_at"]
MOST_COMPLAINTS = 10


def write_annotation_table(rows: pd.DataFrame, path: Path) -> None:
    """Write rows (by id) as CSV for people to label, with empty columns `label`, `labeller` and `labelled_at`.

    The given label is not among them, since people tend to agree with what they see. To edit the file in JupyterLab,
    choose Open With, Editor. Raises InputError when the file is there: it may hold answers.
    """
    if path.exists():
        raise InputError(f"{path}: is there already, and may hold answers; take another name")
    rows.rename_axis("id").reset_index().assign(**dict.fromkeys(ANSWER, "")).to_csv(path, index=False)


def read_annotations(paths: Sequence[Path], allowed: Sequence[Any], rows: pd.DataFrame) -> pd.DataFrame:
    """Read what people answered, and check it; lines without a label are not answered yet.

    Parameters
    ----------
    paths
        Annotation tables, such as one for each labeller.
    allowed
        The classes; a label is read as the one that it is written like.
    rows
        The rows that were asked about (features only), by id.

    Returns
    -------
    DataFrame
        `id`, `label`, `labeller`, and `labelled_at` (UTC; the last change of the file where a line does not say).

    Raises
    ------
    InputError
        With each row and value: a label or id that is not known, no labeller, a time that is none, a second label of
        a labeller for a row, and two that differ on identical rows.
    """
    lines = pd.concat([_lines(path) for path in paths], ignore_index=True)
    lines = lines[lines["label"] != ""].reset_index(drop=True)
    classes, ids = ({str(one): one for one in known} for known in (allowed, rows.index))
    times = pd.to_datetime(lines["labelled_at"], utc=True, errors="coerce", format="ISO8601")
    alike = pd.util.hash_pandas_object(rows.astype("string"), index=False).set_axis(list(ids))
    first = lines.groupby(["labeller", lines["id"].map(alike)])["label"].transform("first")
    is_second = lines.duplicated(["labeller", "id"])
    differs = ~is_second & first.notna() & (first != lines["label"])
    rules = (
        ("id", ~lines["id"].isin(list(ids)), "is no row that was asked about"),
        ("label", ~lines["label"].isin(list(classes)), f"must be one of {', '.join(classes)}"),
        ("labeller", lines["labeller"] == "", "must say who answered"),
        ("labelled_at", times.isna() & (lines["labelled_at"] != ""), "must be a time such as 2026-11-30T09:00Z"),
        ("label", is_second, "is the second of this labeller for this row"),
        ("label", differs, "differs from this labeller's of an identical row"),
    )
    complaints = [
        f"{lines['place'][at]} (id {lines['id'][at]}): {column} = {lines[column][at]!r}: {why}"
        for column, broken, why in rules
        for at in np.flatnonzero(broken)
    ]
    if complaints:
        left_out = len(complaints) - MOST_COMPLAINTS
        raise InputError("; ".join(complaints[:MOST_COMPLAINTS] + ([f"and {left_out} more"] if left_out > 0 else [])))
    named = {"id": lines["id"].map(ids), "label": lines["label"].map(classes), "labeller": lines["labeller"]}
    made: pd.DataFrame = pd.DataFrame({**named, "labelled_at": times.fillna(lines["changed"].astype(times.dtype))})
    return made


def _lines(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        changed = pd.Timestamp(path.stat().st_mtime, unit="s", tz="UTC")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    if missing := [name for name in ("id", *ANSWER) if name not in table]:
        raise InputError(f"{path}: lacks column {', '.join(missing)}")
    texts: pd.DataFrame = table[["id", *ANSWER]].apply(lambda column: column.str.strip())
    return texts.assign(place=[f"{path.name} row {number}" for number in range(1, len(texts) + 1)], changed=changed)


def settle(annotations: pd.DataFrame) -> pd.DataFrame:
    """Return the label that most labellers gave each row: `label`, `votes`, `labellers`, `labelled_at` (the last).

    A row without a majority is left out: `labels.queue` asks about it again.
    """
    votes = annotations.groupby(["id", "label"]).size().rename("votes").reset_index("label")
    of = annotations.groupby("id").agg(labellers=("labeller", "size"), labelled_at=("labelled_at", "max"))
    table = votes.join(of)
    settled: pd.DataFrame = table[2 * table["votes"] > table["labellers"]]
    return settled


def cohen_kappas(annotations: pd.DataFrame) -> pd.DataFrame:
    """Return how each pair of labellers agrees: `rows` that both labelled, `equal` (share), and Cohen's `kappa`.

    Kappa is missing where it says nothing: no row in common, or one and the same label everywhere.
    """
    from sklearn.metrics import cohen_kappa_score

    wide = annotations.astype({"label": str}).pivot(index="id", columns="labeller", values="label")
    found = []
    for one, other in combinations(wide, 2):
        both = wide[[one, other]].dropna()
        is_varied = len(np.unique(both)) > 1
        kappa = cohen_kappa_score(both[one], both[other]) if is_varied else np.nan
        found.append((one, other, len(both), (both[one] == both[other]).mean(), kappa))
    return pd.DataFrame(found, columns=["one", "other", "rows", "equal", "kappa"])


def krippendorff_alpha(annotations: pd.DataFrame) -> float:
    """Return Krippendorff's alpha of any number of labellers, nominal, where some rows were not labelled by all.

    1 of full agreement, 0 of chance, below where they contradict each other; NaN of one label only. K. Krippendorff,
    "Computing Krippendorff's Alpha-Reliability" (2011), section C.

    >>> krippendorff_alpha(pd.DataFrame({"id": [1, 1, 2, 2, 3], "labeller": list("ababa"), "label": list("xxyyx")}))
    1.0
    """
    counts = pd.crosstab(annotations["id"], annotations["label"].astype(str)).to_numpy(float)
    counts = counts[counts.sum(axis=1) > 1]  # a row with one label has no pair
    per_row, per_class, n = counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    observed = ((per_row**2 - (counts**2).sum(axis=1)) / (per_row - 1)).sum()
    expected = (n**2 - (per_class**2).sum()) / (n - 1) if n else 0.0
    return float(1 - observed / expected) if expected else float("nan")
