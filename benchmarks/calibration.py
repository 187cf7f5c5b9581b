"""Calibration: how sure the ranking may be, learnt from incidents whose cause is known.

The ratios of the table are judgements, and evidence that is taken as independent is not quite: the product is too sure.
One number fixes that, a temperature by which all log-odds are divided (Guo, Pleiss, Sun and Weinberger, On Calibration
of Modern Neural Networks, ICML 2017). It leaves the order of the causes as it is. The threshold below which nothing is
named needs no learning then: where asking a person costs the part d of a wrong repair, naming a cause pays from a
probability of 1 − d on (C. K. Chow, IEEE Trans. Inf. Theory 16, 1970).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from lepton_kit.diagnosis.evidence import Cause, Evidence
from lepton_kit.diagnosis.ranking import HYPOTHESES, HYPOTHESES_OF, Likelihoods, log_odds, tempered
from lepton_kit.errors import InputError

COLDEST, HOTTEST = 1.0, 20.0
"""Drills may make the table less sure, never surer than its ratios: whatever all of them tell apart, others may not."""


@dataclass(frozen=True)
class Known:
    """An incident's evidence, and the causes that were truly at work: `{"none"}`, or one or two of the others."""

    evidence: tuple[Evidence, ...]
    causes: frozenset[Cause]


def calibrate(cases: Sequence[Known], likelihoods: Likelihoods) -> Likelihoods:
    """Fit the temperature to incidents of known cause: the one under which these causes were likeliest.

    Parameters
    ----------
    cases
        Incidents of known cause. To judge how a kind of fault is diagnosed that nobody has seen before, leave that
        kind out of them.
    likelihoods
        The table to calibrate.

    Returns
    -------
    Likelihoods
        The same table with the fitted temperature, between `COLDEST` and `HOTTEST`.

    Raises
    ------
    InputError
        When there is no case, or one has causes that cannot be at work together.

    Examples
    --------
    Of two incidents with the same evidence, one had another cause: a table that was sure of it becomes less so.

    >>> from lepton_kit.diagnosis.ranking import read_likelihoods
    >>> found = (Evidence("contract", "broken", ""),)
    >>> table = read_likelihoods()
    >>> known = [Known(found, frozenset({"data"})), Known(found, frozenset({"none"}))]
    >>> calibrate(known, table).decision.temperature > 3
    True
    """
    if not cases:
        raise InputError("no incident of known cause to calibrate with")
    odds = [log_odds(case.evidence, likelihoods) for case in cases]
    true = [is_true(case.causes) for case in cases]

    def surprise(log_temperature: float) -> float:
        chances = [tempered(one, np.exp(log_temperature))[held].sum() for one, held in zip(odds, true, strict=True)]
        return -float(np.mean(np.log(np.maximum(chances, 1e-12))))

    best = minimize_scalar(surprise, bounds=np.log([COLDEST, HOTTEST]), method="bounded").x
    return with_temperature(likelihoods, float(np.exp(best)))


def with_temperature(likelihoods: Likelihoods, temperature: float) -> Likelihoods:
    """Return the same table with another temperature."""
    decision = likelihoods.decision.model_copy(update={"temperature": temperature})
    return likelihoods.model_copy(update={"decision": decision})


def is_true(causes: Iterable[Cause]) -> pd.Series:
    """Tell of each hypothesis whether it says that these causes, and no others, were at work.

    >>> held = is_true({"data", "compute"})
    >>> held[held].index.tolist()
    ['data and compute']
    """
    wanted = set(causes)
    if wanted == {"none"}:
        names = set(HYPOTHESES_OF["none"])
    else:
        names = {name for name, at_work in HYPOTHESES.items() if at_work and set(at_work) == wanted}
    if not names:
        raise InputError(f"causes {sorted(wanted)}: must be none, or one or two of data, model and compute")
    return pd.Series([name in names for name in HYPOTHESES], index=list(HYPOTHESES))
