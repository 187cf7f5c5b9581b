"""What must not change a verdict: the order of rows, the day, names of series and requests, the unit of a metric.

With less evidence a verdict may become `unknown`, and never that of another cause.
"""

from functools import cache

import incident_variants as variants
import pandas as pd
import pytest
from helpers import benchmark

from lepton_kit.diagnosis.causes import diagnose

changes = benchmark("invariance")

INCIDENTS = {
    "stuck feed": (lambda _: variants.stuck_feed(), "data"),
    "wrong unit": (lambda _: variants.wrong_unit(100), "data"),
    "wrong model": (variants.wrong_model, "model"),
    "slow": (lambda _: variants.slow(), "compute"),
    "another world": (lambda _: variants.world(3, 0), "none"),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return cache(lambda name: INCIDENTS[name][0](tmp_path_factory.mktemp("models")))


@pytest.mark.parametrize("change", changes.SAME)
@pytest.mark.parametrize("name", INCIDENTS)
def test_a_verdict_depends_on_no_order_day_name_or_unit(name, change, recorded):
    found = diagnose(changes.SAME[change](recorded(name)))
    assert (found.cause, found.also) == (INCIDENTS[name][1], ())
    assert found.probability == pytest.approx(diagnose(recorded(name)).probability, rel=1e-6)


@pytest.mark.parametrize("change", changes.LESS)
@pytest.mark.parametrize("name", INCIDENTS)
def test_with_less_evidence_no_other_cause_is_named(name, change, recorded):
    found = diagnose(changes.LESS[change](recorded(name)))
    assert found.cause in (INCIDENTS[name][1], "unknown")
    assert found.also == ()


def test_the_published_table_counts_verdicts_that_are_right_undecided_or_of_another_cause():
    seen = [("data", "data"), ("data", "unknown"), ("data", "none"), ("unknown", "compute"), ("none", "model")]
    told = [("data",)] * 4 + [("none",)]
    rows = [
        {"causes": one, "change": "x", "first": first, "named": named}
        for one, (first, named) in zip(told, seen, strict=True)
    ]
    [row] = changes.table_of(pd.DataFrame(rows)).to_dict("records")
    assert row == {
        "recordings": 5, "right": 0.2, "undecided": 0.2, "another cause": 2, "benign": 1,
        "false repairs on benign": 1.0,
    }  # fmt: skip
