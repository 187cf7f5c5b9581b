"""What a machine derives from an incident's history, and that what people judged stays apart and is shown as text."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from helpers import ROOT, figures_of

from lepton_kit.diagnosis import history as histories
from lepton_kit.diagnosis import judgement as judgements
from lepton_kit.diagnosis import postmortem
from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import FORMAT, Incident, Recording

HOSTILE = "<script>x</script>\x1b[31m"
DAY = "2026-11-25T03"


def at(minutes, seconds=0):
    return f"{DAY}:{minutes:02}:{seconds:02}Z"


def job(kind, start, end, **more):
    results = {name: {"value": value} for name, value in more.pop("results", {}).items()}
    run = {
        "run_id": f"run-{kind}", "status": "succeeded", "started": at(start), "ended": at(end),
        "notebook_sha256": "ab" * 32, "code_sha256": "cd" * 32, "commit": "ef" * 20,
        "inputs": {"incidents/i/recording": "12" * 32}, "results": results,
    }  # fmt: skip
    made = {
        "kind": kind, "name": "data", "notebook": f"runbooks/{kind}.ipynb", "state": "ended", "status": "succeeded",
        "queued": at(start), "started": at(start), "ended": at(end), "run": run,
    }  # fmt: skip
    return made | more


def content(**changes):
    evidence = {
        "columns": ["evidence", "finding", "data", "model", "p", "since"],
        "rows": [
            ["contract", "broken", "+", "", 1e-9, "2026-11-25 03:01:00"],
            ["freshness", "stale", "+", "", "nan", at(1, 30)],
            ["drift", "drifted", "+", "", 0.02, at(0, 10)],
            ["deployment", "deployed", "", "+", None, at(0, 20)],
            ["joint_drift", "told apart", "+", "", 1e-9, ""],
        ],
    }
    onsets = {"columns": ["symptom", "since", "counts"], "rows": [["misses", at(2), True], ["latency", at(0), False]]}
    said = {"cause": "data", "also": [], "probability": 0.97, "onset": at(1), "evidence": evidence, "onsets": onsets}
    diagnosis = job("alert", 6, 7, results=said)
    decision = {"time": at(9), "is_approved": True, "by": "Kim", "via": "lepton approve", "note": "go"}
    verdict = {"action": "the feed was restarted", "applied": True, "verdict": "recovered", "rolled_back": False}
    repair = job(
        "remedy",
        9,
        12,
        results=verdict,
        is_automatic=False,
        why="the policy is to ask",
        decisions=[decision],
        queued=at(7),
    )
    whole = {
        "format": histories.FORMAT, "id": "i", "service": "goog",
        "alert": {
            "name": "GoogErrorsBudgetBurn", "severity": "page", "status": "resolved", "starts_at": at(5),
            "ends_at": at(21), "received": at(5, 2), "origin": "webhook", "summary": "errors",
        },
        "jobs": [diagnosis, repair],
        "actions": [
            {"time": at(10), "run": "run-remedy", "action": "restart_feed", "why": "stale", "outcome": "no command"},
            {"time": at(11), "run": "run-remedy", "action": "set_state", "why": "more", "outcome": "done",
             "before": {"workers": 1}, "after": {"workers": 2}},
        ],
        "promise": {
            "name": "goog-errors", "title": "Errors", "service": "goog", "target": 0.99, "window_s": 28 * 86400,
            "events": "bad", "selector": 'lepton_predict_requests_total{outcome="model"}',
            "total": "lepton_predict_requests_total",
        },
        "frozen": at(22),
    }  # fmt: skip
    return whole | changes


def history(**changes):
    return histories.History.model_validate_json(json.dumps(content(**changes)))


def recorded(first, last, failing=(), stale=()):
    """A recording with a request a second; in some minutes every second one fails."""
    time = pd.date_range(at(first), at(last), freq="1s")
    broken = time.minute.isin(failing) & (time.second % 2 == 1)
    status = pd.Series(200.0, index=time).mask(broken, 500.0)
    requests = pd.DataFrame(
        {
            "time": time, "request_id": time.strftime("%H%M%S"), "version": "v1", "status": status.to_numpy(),
            "latency_ms": 5.0, "mean": 0.0, "std": 1.0, "lower": -1.0, "upper": 1.0, "prob_up": 0.5, "actual": 0.0,
            "feature_a": [float("nan") if t.minute in stale else float(t.second) for t in time],
        }
    ).astype({"time": "datetime64[us, UTC]"})  # fmt: skip
    window = {"start": at(first), "end": at(last)}
    incident = Incident(format=FORMAT, id="i", service="goog", versions={"current": "v1"}, window=window)
    return Recording(incident, requests=requests)


def test_the_four_measures_run_from_the_onset_and_the_alert_to_what_is_recorded():
    found = postmortem.milestones(history())
    measures = found.time_to_detect, found.time_to_diagnose, found.time_to_mitigate, found.time_to_recover
    assert measures == (4 * 60, 2 * 60, 10 * 60, 20 * 60)


def test_the_onset_is_that_of_the_diagnosis_whatever_moved_before_it():
    def onset(**said):
        results = content()["jobs"][0]["run"]["results"] | {name: {"value": value} for name, value in said.items()}
        told = history(jobs=[job("alert", 6, 7, results={k: v["value"] for k, v in results.items()})])
        in_timeline = postmortem.timeline(told).set_index("event")["time"].get("onset of the incident")
        assert in_timeline == told.onset == postmortem.milestones(told).onset
        return told.onset

    assert onset() == pd.Timestamp(at(1))
    assert onset(onset=at(4)) == pd.Timestamp(at(4))  # evidence since 03:01 does not move it
    assert onset(also=["model"]) == pd.Timestamp(at(1))
    assert onset(evidence=None, onsets=None) == pd.Timestamp(at(1))
    assert onset(onset=None) is None


def test_what_did_not_come_to_pass_has_no_measure():
    alert = content()["alert"] | {"status": "firing", "ends_at": None}
    found = postmortem.milestones(history(alert=alert, jobs=[], actions=[]))
    assert (found.onset, found.diagnosed, found.mitigated, found.recovered) == (None,) * 4
    measures = (found.time_to_detect, found.time_to_diagnose, found.time_to_mitigate, found.time_to_recover)
    assert measures == (None,) * 4


def test_an_action_that_did_not_succeed_mitigates_nothing():
    actions = content()["actions"][:1]
    assert postmortem.milestones(history(actions=actions)).mitigated == pd.Timestamp(at(12))  # the repair's own end
    jobs = content()["jobs"][:1]
    assert postmortem.milestones(history(actions=actions, jobs=jobs)).mitigated is None


def test_the_timeline_is_in_order_and_says_where_each_line_is_known_from():
    table = postmortem.timeline(history())
    assert table["time"].is_monotonic_increasing
    assert set(table["kind"]) == {"signal", "alert", "run", "decision", "action"}
    said = dict(zip(table["event"], table["source"], strict=True))
    assert said["contract: broken"] == said["freshness: stale"] == "diagnosis"
    assert not said.keys() & {"drift: drifted", "deployment: deployed", "misses moves"}  # chance; another cause's
    assert said["repair of data approved by Kim: go"] == "lepton approve"
    assert said["workers 1 → 2"] == "run-remedy"
    assert said["restart feed (no command)"] == "run-remedy"
    assert "diagnosis ends (succeeded, cause: data)" in said
    assert "repair of data ends (succeeded, verdict: recovered)" in said
    assert "repair of data waits: the policy is to ask" in said
    assert "GoogErrorsBudgetBurn ends" in said


def test_a_repair_that_was_refused_is_told_as_not_made():
    refused = content()["jobs"][1] | {"state": "refused", "status": None, "error": "rejected by Lee", "run": None}
    told = history(jobs=[refused])
    assert "repair of data is not made: rejected by Lee" in postmortem.timeline(told)["event"].tolist()
    assert postmortem.repairs(told)["status"].tolist() == ["refused: rejected by Lee"]


def test_requests_rows_and_the_budget_are_counted_from_the_onset_to_the_end_over_both_recordings():
    before, after = recorded(0, 8, failing=range(1, 9)), recorded(5, 30, failing=range(5, 11), stale=[12])
    found = postmortem.impact(history(), before, after)
    assert (found.start, found.end, found.is_over) == (pd.Timestamp(at(1)), pd.Timestamp(at(21)), True)
    assert (found.requests, found.failed, found.rows_broken) == (20 * 60 + 1, 300, 60)
    bad = 300 / 1200
    assert found.indicator.total == pytest.approx(1200, abs=1)
    assert found.burn_rate == pytest.approx(bad / 0.01, rel=1e-2)
    assert found.spent == pytest.approx(bad / 0.01 * 20 * 60 / (28 * 86400), rel=1e-2)
    assert found.table().set_index("impact")["number"]["failed (status 500 and above)"] == 300


def test_a_demonstrations_shorter_windows_are_those_of_its_budget():
    before = recorded(0, 22, failing=range(1, 9))
    whole = postmortem.impact(history(), before).spent
    promise = content()["promise"] | {"time_scale": 600}
    assert postmortem.impact(history(promise=promise), before).spent == pytest.approx(600 * whole)


def test_without_an_objective_or_an_end_what_can_be_counted_is_counted():
    alert = content()["alert"] | {"status": "firing", "ends_at": None}
    found = postmortem.impact(history(promise=None, alert=alert), recorded(0, 8, failing=[3]))
    assert (found.failed, found.affected, found.spent, found.is_over) == (30, None, None, False)


def test_an_incident_after_its_recording_affected_nothing_that_is_known():
    found = postmortem.impact(history(), recorded(30, 31))
    assert (found.requests, found.spent) == (0, None)


@pytest.mark.parametrize("name", ["input_fixes", "mends"])  # the second is how histories before 2026-12 name them
def test_input_fixes_are_described_in_words(name):
    on = {name: {"fill": {"return_0": 0.5}}}
    part = {"time": "2026-11-25T03:00:00Z", "action": "set_state", "outcome": "done"}
    assert histories.Action(**part, before={}, after=on).what == "turned on: fills missing values of 1 feature"
    assert histories.Action(**part, before=on, after={name: {}}).what == (
        "turned off: fills missing values of 1 feature"
    )


def test_causes_repairs_actions_and_provenance_are_tables():
    told = history()
    assert dict(postmortem.causes(told).to_numpy())["probability"] == "0.97"
    repair = postmortem.repairs(told).iloc[0]
    assert (repair["approval"], repair["status"], repair["verdict"], repair["applied"]) == (
        "approved by Kim", "succeeded", "recovered", "yes",
    )  # fmt: skip
    assert postmortem.actions(told)["action"].tolist() == ["restart feed (no command)", "workers 1 → 2"]
    assert postmortem.actions(told)["approval"].tolist() == ["approved by Kim"] * 2
    origin = postmortem.provenance(told).iloc[0]
    assert (origin["run"], origin["commit"], origin["inputs"]) == (
        "run-alert", "efefefefefef", "incidents/i/recording 121212121212",
    )  # fmt: skip
    assert postmortem.causes(history(jobs=[]))["answer"].tolist() == ["no diagnosis succeeded"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "lepton-incident-history/9"}, "format"),
        ({"frozen": "2026-11-25T03:00:00"}, "frozen"),
        ({"alert": {}}, "alert.name"),
        ({"promise": {"target": 2}}, "promise"),
    ],
)
def test_a_history_that_is_not_one_is_refused_with_the_field_named(tmp_path, change, words):
    path = tmp_path / "history.json"
    path.write_text(json.dumps(content(**change)))
    with pytest.raises(InputError, match=words):
        histories.read_history(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "nothing"])
def test_a_file_that_is_no_history_is_one_clear_error(tmp_path, text):
    path = tmp_path / "history.json"
    with pytest.raises(InputError, match=r"history\.json"):
        histories.read_history(path)
    path.write_text(text)
    with pytest.raises(InputError, match=r"history\.json"):
        histories.read_history(path)


def test_hostile_text_in_a_history_is_made_visible():
    alert = content()["alert"] | {"name": HOSTILE, "summary": HOSTILE}
    told = postmortem.timeline(history(alert=alert))["event"]
    assert not told.str.contains("\x1b").any()


def test_the_timeline_is_drawn_with_every_event_and_milestone():
    told = history()
    fig, axes = plt.subplots()
    draw = figures_of(ROOT / "runbooks/postmortem.ipynb")["incident_timeline"]
    draw(postmortem.timeline(told), {"onset": postmortem.milestones(told).onset, "end": None}, axes)
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert len(shown) == len(postmortem.timeline(told))
    assert "workers 1 → 2" in shown
    assert [text.get_text() for text in axes.texts] == ["onset"]
    plt.close(fig)


# --- what people judged ---


def test_a_page_that_nobody_wrote_says_so():
    read = judgements.parse_judgement(judgements.template("i"))
    assert not any(read.sections.values()) and read.actions.empty
    assert judgements.judged_html(read, "i/judgement.md").count("Write it in i/judgement.md") == 1


def test_sections_and_actions_are_read_and_shown_as_text():
    page = judgements.template("i").replace(judgements.UNWRITTEN, f"We were slow. {HOSTILE}", 1)
    page += "| watch the <b>age</b> | Kim | 2026-12-01 | detect | open |\n"
    read = judgements.parse_judgement(page)
    assert read.sections["Summary in plain words"].startswith("We were slow.")
    assert read.actions.iloc[0].tolist() == ["watch the <b>age</b>", "Kim", "2026-12-01", "detect", "open"]
    shown = BeautifulSoup(judgements.judged_html(read), "html.parser")
    assert not shown.select("script, b")
    assert "watch the <b>age</b>" in shown.get_text()
    assert "\x1b" not in shown.get_text()
    assert shown.get_text().startswith("Human judgement")


def test_an_action_without_an_owner_column_is_one_clear_error(tmp_path):
    path = tmp_path / "judgement.md"
    path.write_text("## Actions\n| action | owner |\n|---|---|\n| do it | Kim |\n")
    with pytest.raises(InputError, match=r"judgement\.md.*2 cells"):
        judgements.read_judgement(path)
    with pytest.raises(InputError, match="not readable"):
        judgements.read_judgement(tmp_path / "none.md")
