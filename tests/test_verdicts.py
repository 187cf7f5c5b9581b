"""What the diagnosis says of every bundled and of every made incident, so that no change of it goes unseen.

`verdicts.csv` holds a line for each, and `findings.csv` one for each answer. Where a change is meant, write both anew
and read the difference: `python tests/test_verdicts.py`.
"""

from __future__ import annotations

import math
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import incident_variants as variants
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT

from lepton_kit.diagnosis.causes import Diagnosis, diagnose
from lepton_kit.telemetry.recordings import read_recording

VERDICTS, FINDINGS = (Path(__file__).with_name(f"{name}.csv") for name in ("verdicts", "findings"))
BUNDLED = sorted(path.parent.name for path in (ROOT / "runbooks" / "recordings").glob("*/incident.json"))
MADE = {
    "calm": variants.calm,
    "stuck feed": variants.stuck_feed,
    "fivefold": lambda: variants.wrong_unit(5),
    "hundredfold": lambda: variants.wrong_unit(100),
    "nulls": variants.nulls,
    "repeated requests": variants.repeated_requests,
    "wrong model": lambda: variants.wrong_model(folder()),
    "model ten times too wide": lambda: variants.wrong_model(folder(), factor=10),
    "damaged in service": lambda: variants.damaged_in_service(folder()),
    "too wide in service": variants.too_wide_in_service,
    "wide last good": lambda: variants.wide_last_good(folder()),
    "busier": variants.busier,
    "all slower": lambda: variants.slower(1, 2.5),
    "a quarter slower": lambda: variants.slower(0.25, 200),
    "slow": variants.slow,
    "failing": variants.failing,
    "stuck and slow": variants.stuck_and_slow,
    "noisy prices": lambda: variants.faulty_prices(lambda n: np.exp(np.random.default_rng(0).normal(0, 0.03, n))),
    "every fifth price": lambda: variants.faulty_prices(lambda n: np.where(np.arange(n) % 5 == 0, 1.1, 1)),
    "world 1.5": lambda: variants.world(1.5, 0),
    "world 3": lambda: variants.world(3, 0),
}


FOLDERS = TemporaryDirectory(prefix="lepton-verdicts-")


@pytest.fixture(scope="module", autouse=True)
def removed():
    yield
    FOLDERS.cleanup()


def folder() -> Path:
    return Path(mkdtemp(dir=FOLDERS.name))


@cache
def diagnosis(name: str) -> Diagnosis:
    return diagnose(MADE[name]() if name in MADE else read_recording(ROOT / "runbooks" / "recordings" / name))


def findings(name: str) -> pd.DataFrame:
    """Return each question's finding, its effect and p-value: `evidence`, `finding`, `effect`, `p`."""
    rows = [
        (item.name, item.finding, f"{item.effect:.3g}", "" if item.p_value is None else f"{item.p_value:.1e}")
        for item in diagnosis(name).evidence
    ]
    return pd.DataFrame(rows, columns=["evidence", "finding", "effect", "p"]).set_index("evidence")


def is_about(found: str, agreed: str, relative: float) -> bool:
    """Tell whether two numbers as text are about the same: processors differ in the last digits."""
    if "" in (found, agreed):
        return found == agreed
    one, other = float(found), float(agreed)
    return math.isclose(one, other, rel_tol=relative, abs_tol=1e-3) or (math.isnan(one) and math.isnan(other))


def verdict(name: str) -> dict[str, str]:
    made = diagnosis(name)
    likely = {item.cause: f"{item.probability:.2f}" for item in sorted(made.ranking, key=lambda item: item.cause)}
    return {"cause": made.cause, "also": " ".join(made.also), **likely, "onset": f"{made.onset:%Y-%m-%d %H:%M:%S}"}


@pytest.mark.parametrize("name", [*BUNDLED, *MADE])
def test_the_verdict_of_each_incident_is_the_one_that_was_agreed(name):
    agreed = pd.read_csv(VERDICTS, dtype=str, keep_default_na=False, index_col="incident").loc[name].to_dict()
    found = verdict(name)
    for cause in ("compute", "data", "model", "none"):  # processors differ in the last digits
        assert float(found.pop(cause)) == pytest.approx(float(agreed.pop(cause)), abs=0.02), cause
    assert found == agreed


@pytest.mark.parametrize("name", [*BUNDLED, *MADE])
def test_each_answer_of_each_incident_is_the_one_that_was_agreed(name):
    table = pd.read_csv(FINDINGS, dtype=str, keep_default_na=False, index_col="incident")
    agreed, found = table.loc[name].set_index("evidence"), findings(name)
    assert found["finding"].to_dict() == agreed["finding"].to_dict()
    apart = [
        (question, column, found.at[question, column], agreed.at[question, column])
        for question in agreed.index
        for column, relative in (("effect", 0.03), ("p", 0.3))
        if not is_about(found.at[question, column], agreed.at[question, column], relative)
    ]
    assert not apart


def test_each_agreed_verdict_is_of_an_incident_that_there_is():
    assert list(pd.read_csv(VERDICTS)["incident"]) == [*BUNDLED, *MADE]


if __name__ == "__main__":
    told = pd.DataFrame([{"incident": name, **verdict(name)} for name in [*BUNDLED, *MADE]])
    told.to_csv(VERDICTS, index=False)
    answers = pd.concat({name: findings(name) for name in [*BUNDLED, *MADE]}, names=["incident"])
    answers.reset_index().to_csv(FINDINGS, index=False)
    sys.stdout.write(told.to_string(index=False) + "\n")
