import numpy as np
import pytest
from helpers import benchmark

from lepton_kit.diagnosis.causes import likelihood_table
from lepton_kit.diagnosis.evidence import NOT_CHECKED, QUESTIONS, Evidence
from lepton_kit.diagnosis.ranking import HYPOTHESES, by_cause, log_odds, probabilities, read_likelihoods, weigh
from lepton_kit.errors import InputError

TABLE = read_likelihoods()
calibration = benchmark("calibration")


def found(**findings: str) -> list[Evidence]:
    return [Evidence(name, finding, "") for name, finding in findings.items()]


def own_file(tmp_path, text: str):
    path = tmp_path / "own.toml"
    path.write_text(text)
    return path


def test_without_evidence_the_priors_decide():
    prior = np.array([TABLE.priors[name] for name in HYPOTHESES])
    assert probabilities([], TABLE).to_numpy() == pytest.approx(
        prior ** (1 / TABLE.decision.temperature) / (prior ** (1 / TABLE.decision.temperature)).sum()
    )


def test_the_odds_of_two_hypotheses_by_hand():
    odds = log_odds(found(contract="broken"), TABLE)
    by_hand = TABLE.priors["data"] * TABLE.ratios("contract", "broken").data / TABLE.priors["nothing"]
    assert np.exp(odds["data"] - odds["nothing"]) == pytest.approx(by_hand)


def test_two_faults_at_once_need_evidence_of_both():
    one = by_cause(probabilities(found(contract="broken", latency="steady"), TABLE))
    both = by_cause(probabilities(found(contract="broken", latency="grew"), TABLE))
    assert one["data"] > 0.9 and one["compute"] < 0.1
    assert both["data"] > 0.9 and both["compute"] > 0.5


def test_the_same_fact_told_twice_counts_little_more_than_once(tmp_path):
    group = TABLE.evidence["queue"].group
    assert group == TABLE.evidence["latency"].group
    once, twice = (
        log_odds(found(**told), TABLE) for told in ({"latency": "grew"}, {"latency": "grew", "queue": "grew"})
    )
    gained = (twice - once)["compute"]
    assert gained == pytest.approx(
        TABLE.decision.dependent * min(np.log(TABLE.ratios(name, "grew").compute) for name in ("latency", "queue"))
    )


def test_a_question_that_was_not_answered_changes_nothing():
    assert probabilities(found(contract=NOT_CHECKED), TABLE).equals(probabilities([], TABLE))
    (item,) = weigh(found(contract=NOT_CHECKED), TABLE)
    assert not item.speaks_for | item.speaks_against


def test_evidence_speaks_for_what_it_makes_likelier_and_against_the_rest():
    broken, steady = weigh(found(contract="broken", latency="steady"), TABLE)
    assert broken.speaks_for == {"data"} and "none" in broken.speaks_against
    assert "compute" in steady.speaks_against


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.__name__)
def test_every_question_is_weighed_in_the_table_and_names_the_findings_there(question):
    findings = TABLE.evidence[question.__name__].findings
    assert all(f"`{finding}`" in question.__doc__ for finding in findings)


def test_the_table_weighs_nothing_that_nobody_asks():
    assert set(TABLE.evidence) == {question.__name__ for question in QUESTIONS}
    assert set(likelihood_table()["evidence"]) == set(TABLE.evidence)


def test_an_own_file_changes_only_what_it_names(tmp_path):
    path = own_file(tmp_path, "[evidence.contract.findings.broken]\ndata = 5\n[decision]\nthreshold = 0.9\n")
    own = read_likelihoods(path)
    assert (own.ratios("contract", "broken").data, own.decision.threshold) == (5, 0.9)
    assert own.ratios("contract", "kept") == TABLE.ratios("contract", "kept")
    assert own.priors == TABLE.priors


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[evidence.weather]\ngroup = 'x'\n", "evidence.weather"),
        ("[evidence.contract.findings.torn]\ndata = 2\n", "torn"),
        ("[evidence.contract.findings]\nbroken = {data = -1}\n", "broken.data = -1"),
        ("[evidence.contract.findings]\nbroken = {datum = 3}\n", "datum"),
        ("[decision]\nthreshold = 70\n", "decision.threshold = 70"),
        ("[priors]\nluck = 1\n", "priors.luck"),
        ("no toml", "not readable as TOML"),
    ],
)
def test_a_wrong_file_is_refused_and_what_is_wrong_is_named(text, told, tmp_path):
    with pytest.raises(InputError, match=told):
        read_likelihoods(own_file(tmp_path, text))


def test_a_table_that_was_too_sure_is_made_less_sure_and_keeps_its_order():
    evidence = tuple(found(contract="broken"))
    cases = [calibration.Known(evidence, frozenset({"data"}))] * 3 + [calibration.Known(evidence, frozenset({"none"}))]
    fitted = calibration.calibrate(cases, TABLE)
    before, after = (by_cause(probabilities(evidence, table)) for table in (TABLE, fitted))
    assert before["data"] > 0.95
    assert after["data"] == pytest.approx(0.75, abs=0.15)
    assert max(before, key=before.__getitem__) == max(after, key=after.__getitem__) == "data"


def test_a_temperature_needs_incidents_of_known_cause():
    with pytest.raises(InputError, match="no incident"):
        calibration.calibrate([], TABLE)
    with pytest.raises(InputError, match="must be none, or one or two"):
        calibration.is_true({"none", "data"})


def test_a_deployment_alone_is_no_fault_and_beside_answers_that_got_worse_it_is():
    deployed = {"deployment": "deployed", "answering_version": "changed", "contract": "kept", "promise": "held"}
    alone = by_cause(probabilities(found(**deployed), TABLE))
    assert alone["model"] < 0.3 < alone["none"]
    worse = by_cause(probabilities(found(**deployed, ratings="fell"), TABLE))
    assert worse["model"] > 0.8
