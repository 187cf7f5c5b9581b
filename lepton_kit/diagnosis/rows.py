"""The rows of a recording: which promises their inputs break, and what they were asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lepton_kit.data.quality import ALLOWED_RANGES, allowed_range
from lepton_kit.telemetry.recordings import Recording, feature_columns

BREACHES = {
    "missing": "a feature is missing or not finite",
    "stale": "a feature that always changes repeats its last value, though the actual is a new one",
    "duplicated": "the request id was answered before",
    "out_of_range": f"a feature lies over {ALLOWED_RANGES:g} ranges outside the training rows' range, or is a category "
    "that they do not have",
}


def is_whole(recording: Recording) -> np.ndarray:
    """Tell for each request whether it has a number in every numeric feature but those that training rows may lack."""
    features = recording.features(recording.requests)
    optional = [name for name in features if name in recording.reference and recording.reference[name].isna().any()]
    values, may_lack = features.drop(columns=optional).to_numpy(float), features[optional].to_numpy(float)
    whole: np.ndarray = np.isfinite(values).all(axis=1) & ~np.isinf(may_lack).any(axis=1)
    return whole


def contract_breaches(recording: Recording) -> pd.DataFrame:
    """Tell for every request which promises its inputs break: `missing`, `stale`, `duplicated`, `out_of_range`.

    Without reference rows the range is unknown and nothing is out of it; which features always change is then read
    from the requests themselves. A repeated value is stale only where the actuals tell that a new one was due: several
    requests on one day's features are not. An id counts as duplicated where it was answered before: to ask again after
    a refusal or a failure is right. A request that was refused for the load, or failed, may have left no inputs in the
    log, which says nothing of them.
    """
    features = recording.features(recording.requests).reset_index(drop=True)
    categories = recording.categories(recording.requests).reset_index(drop=True)
    learnt = recording.reference.select_dtypes("number")
    reference = learnt[[column for column in features if column in learnt]]
    sample = reference if len(reference) else features
    changing = [column for column in sample if sample[column].nunique() > len(sample) / 2]
    allowed = allowed_range(reference)
    known = features[list(reference.columns)]
    status = recording.requests["status"].reset_index(drop=True)
    answered, ids = status.lt(400) | status.isna(), recording.requests["request_id"].reset_index(drop=True)
    may_lack = [name for name in categories if name in recording.reference and recording.reference[name].isna().any()]
    is_lacking = ~is_whole(recording) | categories.drop(columns=may_lack).isna().any(axis=1)
    is_empty = features.isna().all(axis=1) & categories.isna().all(axis=1)
    is_unknown = is_empty & status.ge(400) & status.ne(422)
    return pd.DataFrame(
        {
            "missing": is_lacking & ~is_unknown,
            "stale": (features[changing].diff() == 0).any(axis=1) & is_new_period(recording).to_numpy(),
            "duplicated": ids[answered].duplicated().reindex(features.index, fill_value=False),
            "out_of_range": (known.lt(allowed["low"]) | known.gt(allowed["high"])).any(axis=1)
            | unseen_categories(categories, recording.reference).any(axis=1),
        },
        index=recording.requests.index,
    )


def unseen_categories(categories: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Tell of each text whether the training rows have none like it, where they hold each of theirs twice on average.

    >>> came, learnt = pd.DataFrame({"region": ["north", "nort"]}), pd.DataFrame({"region": ["north", "south"] * 4})
    >>> unseen_categories(came, learnt)["region"].tolist()
    [False, True]
    """
    texts = reference.select_dtypes(exclude="number")
    known = {name: texts[name].dropna().unique() for name in categories if name in texts}
    closed = [name for name, values in known.items() if 2 * len(values) <= texts[name].count()]
    return pd.DataFrame(
        {name: categories[name].notna() & ~categories[name].isin(known[name]) for name in closed},
        index=categories.index, dtype=bool,
    )  # fmt: skip


def is_new_period(recording: Recording) -> pd.Series:
    """Tell for each request whether its actual, or the time of it, is another than that of the last known before it.

    Where the actual is not known yet, or rows do not follow on each other, nothing tells that new inputs were due.
    """
    requests = recording.requests
    new = pd.Series(False, index=requests.index)
    if not recording.incident.declaration.time_series:
        return new
    for column in requests.columns.intersection(["actual", "actual_time"]):
        known, last = requests[column], requests[column].ffill().shift()
        new |= known.notna() & last.notna() & (known != last)
    return new


def actuals_by_period(requests: pd.DataFrame) -> pd.Series:
    """Return the known actuals in order of time, one for each period however many requests asked for it.

    Requests for two periods may alternate, so rows of one actual (and time of it, and inputs) are one period wherever
    they stand.

    >>> actuals_by_period(pd.DataFrame({"actual": [0.1, 0.2, 0.1, 0.2, np.nan, 0.3]})).tolist()
    [0.1, 0.2, 0.3]
    """
    known = requests.dropna(subset=["actual"])
    told = [*known.columns.intersection(["actual", "actual_time"]), *feature_columns(known)]
    one_each: pd.Series = known.drop_duplicates(told)["actual"]
    return one_each
