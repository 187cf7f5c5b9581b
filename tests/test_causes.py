import ast
import json
from dataclasses import replace

import incident_variants as variants
import pytest
from helpers import ROOT

from lepton_kit.diagnosis.case import Criteria
from lepton_kit.diagnosis.causes import CONFIDENCE, RULES, diagnose, rule_table
from lepton_kit.diagnosis.evidence import NOT_CHECKED, QUESTIONS
from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import FORMAT, Incident, Recording, read_recording, write_recording


def stored(recording: Recording, folder, truth=None) -> Recording:
    return read_recording(write_recording(recording, folder / "recording", truth))


def findings(diagnosis) -> dict[str, str]:
    return {item.name: item.finding for item in diagnosis.evidence}


def test_the_shipped_recording_is_a_change_of_the_world():
    diagnosis = diagnose(read_recording(variants.SHIPPED))
    assert diagnosis.cause == "none"
    assert findings(diagnosis)["inputs_and_actuals"] == "together"
    assert findings(diagnosis)["replay_of_last_good"] == "fail alike"
    assert diagnosis.onset < read_recording(variants.SHIPPED).incident.alerts[0].starts_at
    assert "Retrain" in diagnosis.next_action
    assert not diagnosis.evidence_against


def test_an_alert_with_nothing_behind_it_is_no_fault(tmp_path):
    diagnosis = diagnose(stored(variants.calm(), tmp_path))
    assert diagnosis.cause == "none"
    assert "threshold" in diagnosis.next_action


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (variants.stuck_feed, "contract"),
        (lambda: variants.wrong_unit(100), "contract"),
        (variants.nulls, "contract"),
        (variants.repeated_requests, "contract"),
        (lambda: variants.wrong_unit(5), "inputs_and_actuals"),
    ],
    ids=["stuck", "hundredfold", "nulls", "repeated requests", "fivefold"],
)
def test_a_fault_of_the_inputs_is_the_data(make, finding, tmp_path):
    diagnosis = diagnose(stored(make(), tmp_path))
    assert diagnosis.cause == "data"
    assert finding in [item.name for item in diagnosis.evidence_for]
    assert diagnosis.next_action.startswith("Run the data repair")


def test_a_stuck_feed_is_dated_to_the_row_where_it_stuck(tmp_path):
    recording = variants.stuck_feed()
    contract = next(item for item in diagnose(recording).evidence if item.name == "contract")
    stuck = recording.requests["time"].iloc[variants.FAULT_FROM]
    assert abs(contract.onset - stuck).days <= 3


def test_a_wrong_version_is_the_model(tmp_path):
    diagnosis = diagnose(stored(variants.wrong_model(tmp_path), tmp_path))
    assert diagnosis.cause == "model"
    assert findings(diagnosis)["replay_of_last_good"] == "last good better"
    assert findings(diagnosis)["deployment"] == "deployed"


def test_answers_that_the_versions_files_do_not_give_are_the_model(tmp_path):
    diagnosis = diagnose(stored(variants.damaged_in_service(tmp_path), tmp_path))
    assert diagnosis.cause == "model"
    assert findings(diagnosis)["served_version"] == "differs"


@pytest.mark.parametrize(
    ("make", "finding"), [(variants.slow, "queue"), (variants.slow, "latency"), (variants.failing, "errors")]
)
def test_slow_or_failing_requests_are_the_compute(make, finding, tmp_path):
    diagnosis = diagnose(stored(make(), tmp_path))
    assert diagnosis.cause == "compute"
    assert findings(diagnosis)[finding] == "grew"


def test_two_causes_at_once_are_unknown_and_both_are_named(tmp_path):
    diagnosis = diagnose(stored(variants.stuck_and_slow(), tmp_path))
    assert diagnosis.cause == "unknown"
    assert {reason.partition(":")[0] for reason in diagnosis.reasons} == {"data", "compute"}
    assert diagnosis.confidence == "none"
    assert "person" in diagnosis.next_action


def test_a_recording_with_nothing_in_it_is_unknown(tmp_path):
    incident = {"id": "x", "service": "demo", "versions": {"current": "v1"}, "format": FORMAT}
    incident["window"] = {"start": "2008-01-01T00:00Z", "end": "2008-02-01T00:00Z"}
    diagnosis = diagnose(stored(Recording(Incident.model_validate(incident)), tmp_path))
    assert diagnosis.cause == "unknown"
    assert not any(item.checked for item in diagnosis.evidence)
    assert len(diagnosis.not_checked) >= len(QUESTIONS)


def test_too_few_rows_are_unknown():
    recording = variants.calm()
    assert diagnose(replace(recording, requests=recording.requests.tail(15))).cause == "unknown"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_without_a_version_to_replay_a_change_of_the_world_is_not_claimed(version):
    recording = read_recording(variants.SHIPPED)
    kept = {name: folder for name, folder in recording.models.items() if name != version}
    diagnosis = diagnose(replace(recording, models=kept))
    assert diagnosis.cause == "unknown"
    assert any(version in line for line in diagnosis.not_checked)


def test_without_reference_rows_the_unchecked_range_is_named():
    recording = read_recording(variants.SHIPPED)
    diagnosis = diagnose(replace(recording, reference=recording.reference.iloc[:0]))
    contract = next(item for item in diagnosis.evidence if item.name == "contract")
    assert "ranges not known" in contract.summary


def test_the_diagnosis_never_reads_the_truth(tmp_path):
    recording = read_recording(variants.SHIPPED)
    without = diagnose(stored(recording, tmp_path)).as_dict()
    with_a_lie = diagnose(stored(recording, tmp_path, truth={"cause": "compute"})).as_dict()
    assert without == with_a_lie == diagnose(recording).as_dict()


def test_no_code_of_the_diagnosis_names_the_truth():
    for path in (ROOT / "lepton_kit" / "diagnosis").rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        names |= {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not [name for name in names if "truth" in name.lower()], path


def test_damaged_model_files_are_an_error_that_names_the_file(tmp_path):
    stored(read_recording(variants.SHIPPED), tmp_path)
    weights = tmp_path / "recording" / "models" / "v1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        diagnose(read_recording(tmp_path / "recording"))


def test_an_objective_that_both_versions_meet_is_not_a_change_of_the_world():
    diagnosis = diagnose(read_recording(variants.SHIPPED), Criteria(coverage_objective=0.7))
    assert findings(diagnosis)["coverage"] == "held"
    assert diagnosis.next_action.startswith("Close the alert")


def test_every_rule_names_findings_that_its_question_can_give():
    questions = {question.__name__: question for question in QUESTIONS}
    for rule in RULES:
        for name, allowed in rule.findings.items():
            text = questions[name].__doc__
            assert all(f"`{finding}`" in text or finding == NOT_CHECKED for finding in allowed), (rule.cause, name)


def test_the_diagnosis_is_json_and_says_what_its_confidence_means():
    answer = diagnose(read_recording(variants.SHIPPED)).as_dict()
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert answer["confidence_means"] == CONFIDENCE[answer["confidence"]]
    assert len(rule_table()) == len(RULES)
