"""What the diagnosis says of every bundled and of every made incident, so that no change of it goes unseen.

`verdicts.csv` holds a line for each. Where a change is meant, write the file anew and read the difference:
`python tests/test_verdicts.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import mkdtemp

import incident_variants as variants
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT

from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.telemetry.recordings import read_recording

VERDICTS = Path(__file__).with_name("verdicts.csv")
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


def folder() -> Path:
    return Path(mkdtemp(prefix="lepton-verdicts-"))


def verdict(name: str) -> dict[str, str]:
    made = diagnose(MADE[name]() if name in MADE else read_recording(ROOT / "runbooks" / "recordings" / name))
    likely = {item.cause: f"{item.probability:.2f}" for item in sorted(made.ranking, key=lambda item: item.cause)}
    return {"cause": made.cause, "also": " ".join(made.also), **likely, "onset": f"{made.onset:%Y-%m-%d %H:%M:%S}"}


@pytest.mark.parametrize("name", [*BUNDLED, *MADE])
def test_the_verdict_of_each_incident_is_the_one_that_was_agreed(name):
    agreed = pd.read_csv(VERDICTS, dtype=str, keep_default_na=False, index_col="incident").loc[name].to_dict()
    found = verdict(name)
    for cause in ("compute", "data", "model", "none"):  # processors differ in the last digits
        assert float(found.pop(cause)) == pytest.approx(float(agreed.pop(cause)), abs=0.02), cause
    assert found == agreed


def test_each_agreed_verdict_is_of_an_incident_that_there_is():
    assert list(pd.read_csv(VERDICTS)["incident"]) == [*BUNDLED, *MADE]


if __name__ == "__main__":
    told = pd.DataFrame([{"incident": name, **verdict(name)} for name in [*BUNDLED, *MADE]])
    told.to_csv(VERDICTS, index=False)
    sys.stdout.write(told.to_string(index=False) + "\n")
