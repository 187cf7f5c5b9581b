"""What would change a verdict: the smallest sets of other findings, and the checks worth making."""

from dataclasses import replace
from itertools import combinations

import pytest
from helpers import ROOT

from lepton_kit.diagnosis.case import build_case
from lepton_kit.diagnosis.causes import conclude, diagnose
from lepton_kit.diagnosis.evidence import Evidence
from lepton_kit.diagnosis.ranking import read_likelihoods
from lepton_kit.diagnosis.sensitivity import check_table, checks, flip_table, flips
from lepton_kit.telemetry.recordings import FORMAT, Incident, Recording, read_recording

RECORDINGS = ROOT / "runbooks" / "recordings"
TABLE = read_likelihoods()


@pytest.fixture(scope="module")
def case():
    window = {"start": "2026-03-01T00:00Z", "end": "2026-03-02T00:00Z"}
    return build_case(
        Recording(Incident(format=FORMAT, id="x", service="demo", versions={"current": "1"}, window=window))
    )


def evidence(lacks=(), **findings: str) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(name, finding.replace("_", " "), "", lacks=lacks if finding == "not_checked" else ())
        for name, finding in findings.items()
    )


FEW = evidence(
    promise="fell", contract="kept", missing_values="no_more", relations="kept", replay_of_last_good="last_good_better",
    deployment="deployed", latency="steady",
)  # fmt: skip


def others(item: Evidence) -> list[Evidence]:
    known = TABLE.evidence[item.name].findings
    return [replace(item, finding=finding) for finding in known if finding != item.finding]


def put(found: tuple[Evidence, ...], *changed: Evidence) -> tuple[Evidence, ...]:
    by_name = {one.name: one for one in changed}
    return tuple(by_name.get(one.name, one) for one in found)


def reached(case, found, number: int) -> set[str]:
    """Every verdict that so many other findings lead to, each set weighed by the diagnosis itself."""
    sets = combinations([other for item in found for other in others(item)], number)
    return {conclude(case, put(found, *one)).cause for one in sets if len({each.name for each in one}) == number}


def test_each_other_verdict_is_reached_by_its_fewest_findings_and_what_is_not_listed_by_none(case):
    diagnosis = conclude(case, FEW)
    by_one = reached(case, FEW, 1) - {diagnosis.cause}
    by_two = reached(case, FEW, 2) - {diagnosis.cause} - by_one
    assert by_one and by_two
    found = {one.cause: len(one.changes) for one in flips(diagnosis)}
    assert found == dict.fromkeys(by_one, 1) | dict.fromkeys(by_two, 2)


@pytest.mark.parametrize("name", ["volatility-2008", "queue-saturation"])
def test_the_findings_that_flip_a_recorded_verdict_do_flip_it(name):
    diagnosis = diagnose(read_recording(RECORDINGS / name))
    assert flips(diagnosis)
    for one in flips(diagnosis):
        changed = [Evidence(change.question, change.other, "") for change in one.changes]
        again = conclude(diagnosis.case, put(diagnosis.evidence, *changed))
        assert (again.cause, again.probability) == (one.cause, pytest.approx(one.probability))
        assert one.cause != diagnosis.cause
        assert "; ".join(map(str, one.changes)) in set(flip_table([one])["if it were"])


def test_a_verdict_that_no_two_findings_change_has_no_flips():
    diagnosis = diagnose(read_recording(RECORDINGS / "stale-feed"))
    assert diagnosis.cause == "data"
    assert flips(diagnosis) == ()
    assert flip_table(()).empty
    assert not [one for one in checks(diagnosis) if one.verdict]


def test_a_question_that_does_not_apply_is_neither_changed_nor_checked(case):
    found = put(FEW, Evidence("relations", "not applicable", ""))
    diagnosis = conclude(case, found)
    assert "relations" not in {change.question for one in flips(diagnosis) for change in one.changes}
    assert "relations" not in {one.question for one in checks(diagnosis)}


def test_the_cheapest_check_that_decides_comes_first_with_its_greatest_ratio(case):
    found = (
        *evidence(promise="fell", latency="steady"),
        *evidence(contract="not_checked", lacks=("requests", "requests.features")),
        *evidence(stale_values="not_checked", lacks=("requests.features",)),
        *evidence(memory="not_checked", units="not_checked"),
    )
    diagnosis = conclude(case, found)
    listed = checks(diagnosis)
    assert [one.question for one in listed][:2] == ["stale_values", "contract"]  # both decide; one lacks less
    assert listed[0].verdict == "data" and listed[0].finding == "more"
    assert listed[0].greatest_ratio == pytest.approx(TABLE.evidence["stale_values"].findings["more"].data)
    assert {one.question for one in listed} == {"contract", "stale_values", "memory", "units"}
    is_decisive = [one.verdict is not None for one in listed]
    assert is_decisive == sorted(is_decisive, reverse=True)
    assert len(check_table(listed)) == 4


def test_an_own_table_of_likelihoods_is_the_one_that_is_searched(case, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text("[evidence.deployment.findings]\ndeployed = { compute = 1000000 }\n")
    diagnosis = conclude(case, put(FEW, Evidence("deployment", "no deployment", "")), read_likelihoods(own))
    assert diagnosis.cause == "model"
    (nearest,) = [one for one in flips(diagnosis) if one.cause == "compute"]
    assert [change.question for change in nearest.changes] == ["deployment"]


def test_a_question_names_what_it_lacks():
    found = {one.name: one for one in diagnose(read_recording(RECORDINGS / "volatility-2008")).evidence}
    assert found["freshness"].lacks == ("signals.newest_data",)
    assert found["objective"].lacks == ("objectives",)
    assert found["contract"].lacks == ()
