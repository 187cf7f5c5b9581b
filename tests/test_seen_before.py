"""Incidents that were seen before: which are alike, and what is said of how they ended."""

from functools import cache

import incident_variants as variants
import pytest
from helpers import ROOT, lepton_here
from repairs import Everything, proposal
from watching import alert

from lepton_kit.diagnosis.causes import Diagnosis, diagnose
from lepton_kit.diagnosis.likeness import findings_of, likeness
from lepton_kit.ops.watch.page import incident_page
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.seen_before import LEAST_ALIKE, seen_before, seen_words
from lepton_kit.ops.watch.status import incident_facts
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.runs.manifest import Manifest
from lepton_kit.telemetry.recordings import read_recording

MADE = {"stuck feed": variants.stuck_feed, "nulls": variants.nulls}


@cache
def diagnosis(name: str) -> Diagnosis:
    return diagnose(MADE[name]() if name in MADE else read_recording(ROOT / "runbooks" / "recordings" / name))


def evidence_of(name: str) -> dict:
    table = diagnosis(name).table()[["evidence", "finding"]]
    return {"columns": list(table), "rows": table.to_numpy().tolist()}


@pytest.mark.parametrize(("name", "same"), [("missing-values", "nulls"), ("stale-feed", "stuck feed")])
def test_the_nearest_incident_is_the_one_of_the_same_fault_and_others_of_the_same_cause_are_further(name, same):
    findings = {one: findings_of(evidence_of(one)) for one in (*MADE, "missing-values", "stale-feed")}
    found = {one: likeness(findings[name], other) for one, other in findings.items() if one != name}
    scores = {one: each.score if each else 0.0 for one, each in found.items()}
    assert max(scores, key=scores.get) == same
    assert [one for one, score in scores.items() if score >= LEAST_ALIKE] == [same]
    assert {diagnosis(one).cause for one in findings} == {"data"}


def test_findings_are_compared_only_where_both_were_checked_and_too_few_give_no_match():
    feed = {"contract": "broken", "stale_values": "more", "missing_values": "more"}
    unchecked = {name: finding for name, finding in feed.items() if name != "missing_values"}
    assert likeness(feed, unchecked).score == likeness(unchecked, feed).score == 1.0
    assert 0.3 < likeness(feed, unchecked | {"missing_values": "no more"}).score < 0.9
    assert likeness(feed, {"latency": "slower"}) is None
    assert likeness({"contract": "kept"}, {"contract": "kept"}) is None


def a_run(project, name: str, **results) -> str:
    """Write the manifest of a run that has ended."""
    manifest = Manifest.model_validate({
        "run_id": name, "notebook": "n.ipynb", "name": "n", "title": "N", "notebook_sha256": "", "code_sha256": "",
        "key": None, "status": "succeeded", "trigger": "alert", "started": "2026-11-25T03:00Z", "parameters": {},
        "results": {each: {"value": value} for each, value in results.items()}, "git": None,
        "environment": {"python": "", "platform": "", "host": "", "kernel": "", "packages": {}},
    })  # fmt: skip
    (project / "runs" / name).mkdir(parents=True)
    manifest.save(project / "runs" / name)
    return name


def happened(project, day: int, recording: str, verdict: str = "", over: bool = True, service: str = "goog") -> str:
    """Record an incident, its diagnosis, and its repair where that came to a verdict; return its id."""
    queue, starts = Queue(project), f"2026-11-{day}T03:00:00Z"
    queue.receive([Alert.model_validate(alert(day, starts=starts, service=service))], "webhook", Everything())
    found = {"cause": diagnosis(recording).cause, "onset": f"2026-11-{day}T02:58:00Z"}
    run = a_run(project, f"look-{day}", **found, evidence=evidence_of(recording))
    queue.end(queue.take(), run, "succeeded", [proposal("data")] if verdict else [], 3)
    if verdict:
        queue.end(queue.take(), a_run(project, f"repair-{day}", verdict=verdict), "succeeded")
    ended = alert(day, "resolved", starts, service=service) | {"endsAt": f"2026-11-{day}T03:10:00Z"}
    posted = Alert.model_validate(ended)
    if over:
        queue.receive([posted], "webhook", Everything())
    return posted.incident


def test_an_incident_names_the_earlier_ones_that_were_alike_with_the_repair_of_those_that_recovered(project):
    repaired = happened(project, 20, "missing-values", "recovered")
    failed = happened(project, 21, "nulls", "not recovered", service="scoring")
    happened(project, 22, "stale-feed", "recovered")  # another fault of the same cause
    happened(project, 23, "missing-values", over=False)  # has not ended
    now = happened(project, 24, "missing-values", over=False)
    happened(project, 25, "missing-values", "recovered")  # came later
    queue = Queue(project)
    incident = queue.incident(now)
    seen = seen_before(incident, queue, project)
    first, second = seen["incidents"]
    assert [one["id"] for one in (first, second)] == [repaired, failed]
    assert (first["alike"], first["cause"], first["is_same_service"]) == (1.0, "data", True)
    assert (first["is_repaired"], first["repaired_by"]) == (True, ["runbooks/repair.ipynb"])
    assert first["recovered_after_s"] == 720  # from the onset of the diagnosis
    assert (second["is_repaired"], second["repaired_by"], second["recovered_after_s"]) == (False, [], None)
    assert not second["is_same_service"] and LEAST_ALIKE <= second["alike"] < 1
    told = seen_words(seen)
    assert told[0] == (
        f"{repaired} (2026-11-20, cause: data, repaired by runbooks/repair.ipynb, recovered after 12 min 0 s; "
        "alike 1.00)"
    )
    assert "on scoring, 2026-11-21, cause: data, not repaired; alike" in told[1]
    page = incident_page(incident_facts(incident, queue, project) | {"seen_before": seen})
    assert f'<a href="/incidents/{repaired}">' in page and "missing_values: more" in page
    shown = lepton_here("incidents", now, project=project, COLUMNS="200").stdout
    assert "repaired by runbooks/repair.ipynb, recovered after 12 min 0 s" in shown


def test_an_incident_without_findings_says_that_it_was_not_compared(project):
    happened(project, 20, "missing-values", "recovered")
    queue = Queue(project)
    posted = Alert.model_validate(alert(1, starts="2026-11-24T03:00:00Z"))
    queue.receive([posted], "webhook", Everything())
    seen = seen_before(queue.incident(posted.incident), queue, project)
    assert (seen["incidents"], seen["compared"]) == ([], 0)
    assert "no diagnosis of this incident" in seen["why_not"]
    assert seen_words(seen) == [f"not known: {seen['why_not']}"]
