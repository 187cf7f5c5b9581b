"""When drills last proved a runbook, and what makes that stale."""

from __future__ import annotations

import dataclasses
import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
import typer
from helpers import ROOT, lepton_here
from typer.testing import CliRunner

from lepton_kit.cli import app
from lepton_kit.commands.drill import drill_stale
from lepton_kit.errors import InputError
from lepton_kit.ops import proven
from lepton_kit.ops.drill_results import Basis, Drill, Drilled, read_results, write_results
from lepton_kit.ops.proven import basis_of, proof_of, proof_words, proofs

ALERT, RUNBOOK, SERVICE = "GoogErrorsBudgetBurn", "runbooks/repair-data.ipynb", "goog"
KEY = (ALERT, RUNBOOK, SERVICE)


@pytest.fixture
def project(tmp_path):
    for part in ("slo", "runbooks/repair-data.ipynb", "lepton.toml"):
        source, target = ROOT / part, tmp_path / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return tmp_path


def drilled(project, **changes):
    made = Drilled(
        fault="nulls", severity=0.5, seed=7, kind="constant", causes=("data",), alert=ALERT, detected_after=10.0,
        cause="data", also=(), probability=0.97, confidence="high", diagnosed_after=12.0, remedy="repair-data",
        actions=("filled",), recovery="recovered", recovered_after=60.0, verdict="recovered", service=SERVICE,
        basis=basis_of(project, SERVICE, "simulated", RUNBOOK, "v2"),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def write(project, *made, days_ago=0.0, seed=0):
    path = write_results(made, project / "drills", seed, live=False)
    held = json.loads(path.read_text())
    held["made"] = (datetime.now(UTC) - timedelta(days=days_ago)).isoformat()
    path.write_text(json.dumps(held))


def test_a_drill_that_recovered_proves_its_runbook_with_its_date_and_versions(project):
    write(project, drilled(project))
    found = proof_of(*KEY, project)
    assert found.proven is not None
    assert found.stale == ()
    assert (found.basis.stage, found.basis.model, found.drill.seed) == ("simulated", "v2", 7)
    assert "last proven on" in str(found)
    assert "not the notebook" in str(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "not recovered", "recovery": "not recovered"},
        {"verdict": "wrong cause", "recovery": "recovered"},
        {"verdict": "acted without an alert", "alert": ""},
        {"also": ("compute",)},
    ],
)
def test_a_drill_that_did_not_recover_by_this_remedy_alone_proves_nothing(project, changes):
    write(project, drilled(project, **changes))
    assert proof_of(*KEY, project).proven is None
    assert proof_words(*KEY, project) == "never proven in a drill"


def test_every_alert_and_remedy_of_the_settings_is_listed_also_where_no_drill_proves_it(project):
    write(project, drilled(project))
    found = {(one.alert, one.runbook, one.service): one for one in proofs(project)}
    assert found[KEY].proven is not None
    never = found["GoogLatencyBudgetBurn", "runbooks/repair-capacity.ipynb", SERVICE]
    assert never.proven is None
    assert never.stale == ()


def test_a_proof_goes_stale_with_age(project):
    write(project, drilled(project), days_ago=31)
    assert proof_of(*KEY, project).stale == ("age",)
    settings = project / "lepton.toml"
    settings.write_text(settings.read_text() + "\n[drills]\nstale_days = 60\n")
    assert proof_of(*KEY, project).stale == ()


def change_runbook(project):
    path = project / RUNBOOK
    held = json.loads(path.read_text())
    held["cells"].append(dict(held["cells"][0], id="one-more"))
    path.write_text(json.dumps(held))


def change_declaration(project):
    path = project / "lepton.toml"
    path.write_text(path.read_text().replace("time_series = true", "time_series = false"))


def change_objectives(project):
    path = next((project / "slo/goog").glob("*.yaml"))
    path.write_text(path.read_text() + "\n# another target\n")


def change_remedy(project):
    path = project / "lepton.toml"
    path.write_text(path.read_text().replace('policy = "ask"', 'policy = "ask"\nparameters = { observed = 60 }', 1))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (change_runbook, "runbook"),
        (change_declaration, "declaration"),
        (change_objectives, "objectives"),
    ],
)
def test_a_change_of_what_a_drill_rested_on_makes_its_proof_stale(project, change, why):
    write(project, drilled(project))
    change(project)
    assert proof_of(*KEY, project).stale == (why,)


def test_new_outputs_of_a_runbook_are_no_change(project):
    write(project, drilled(project))
    path = project / RUNBOOK
    held = json.loads(path.read_text())
    for cell in held["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    path.write_text(json.dumps(held))
    assert proof_of(*KEY, project).stale == ()


def test_a_new_owner_cost_or_policy_of_a_service_is_no_change(project):
    write(project, drilled(project))
    path = project / "lepton.toml"
    text = path.read_text().replace('policy = "ask"', 'policy = "auto"', 1)
    path.write_text(text.replace("[services.goog]", '[services.goog]\nowner = "prices"\ncost_per_minute = 3.0'))
    assert proof_of(*KEY, project).stale == ()


OF_THE_KIT = (
    "data/drift.py", "models/tasks.py", "telemetry/readers.py", "telemetry/signals/vllm.toml", "reports/site.py",
    "diagnosis/likelihoods.toml", "diagnosis/evidence/questions.py", "ops/watch/evidence.py", "ops/repairs.py",
    "stats.py", "ops/declared.py", "serving/control.py",
)  # fmt: skip


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """Stand a copy of a few modules in for the package, for its fingerprint."""
    for name in OF_THE_KIT:
        path = tmp_path / "kit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "lepton_kit" / name, path)
    monkeypatch.setattr(proven, "__file__", str(tmp_path / "kit/ops/proven.py"))
    proven._code_sha256.cache_clear()
    yield tmp_path / "kit"
    proven._code_sha256.cache_clear()


def changed(file, before, after):
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))
    proven._code_sha256.cache_clear()


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("data/drift.py", "return ", "return not "),
        ("models/tasks.py", "return ", "return not "),
        ("telemetry/signals/vllm.toml", "vllm:", "vllm_"),
        ("telemetry/readers.py", " == ", " != "),
        ("diagnosis/likelihoods.toml", "group = ", "groups = "),
        ("diagnosis/evidence/questions.py", "(", "(*"),
        ("ops/watch/evidence.py", "return ", "return not "),
        ("ops/repairs.py", "return ", "return not "),
        ("stats.py", "return ", "return not "),
        ("ops/declared.py", "return ", "return not "),
        ("serving/control.py", "return ", "return not "),
    ],
)
def test_a_change_of_the_kits_evidence_diagnosis_or_remedies_makes_a_proof_stale(project, kit, file, before, after):
    write(project, drilled(project))
    changed(kit / file, before, after)
    assert proof_of(*KEY, project).stale == ("code",)


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("data/drift.py", '"""', '"""Now: '),
        ("telemetry/readers.py", "from __future__ import annotations", "# why\nfrom __future__ import annotations\n"),
        ("diagnosis/likelihoods.toml", "[", "# why\n["),
        ("reports/site.py", " == ", " != "),
    ],
)
def test_comments_docstrings_compiled_files_and_code_of_reports_are_no_change(project, kit, file, before, after):
    write(project, drilled(project))
    changed(kit / file, before, after)
    (kit / "data/__pycache__").mkdir()
    (kit / "data/__pycache__/drift.pyc").touch()
    assert proof_of(*KEY, project).stale == ()


@pytest.mark.parametrize("stage", ["served", "declared"])
def test_a_live_proof_is_stale_when_another_version_or_diagnosis_is_in_service_and_a_simulated_one_is_not(
    project, stage
):
    history = project / "models/goog/history.jsonl"
    history.parent.mkdir(parents=True)
    entry = {"time": "2026-11-01T00:00:00+00:00", "action": "promote", "version": "v2", "run_id": "", "reason": ""}
    history.write_text(json.dumps(entry) + "\n")
    write(project, drilled(project, kind="live", basis=basis_of(project, SERVICE, stage, RUNBOOK, "v2")))
    assert proof_of(*KEY, project).stale == ()
    later = [entry, entry | {"version": "v3"}, entry | {"action": "rollback"}]
    history.write_text("".join(json.dumps(one) + "\n" for one in later[:2]))
    assert proof_of(*KEY, project).stale == ("model",)
    history.write_text("".join(json.dumps(one) + "\n" for one in later))  # v2 is back
    assert proof_of(*KEY, project).stale == ()
    settings = project / "lepton.toml"
    rule = '\n[alerts.GoogErrorsBudgetBurn]\nrunbook = "runbooks/repair-data.ipynb"\n'
    settings.write_text(settings.read_text() + rule)
    own = ("diagnosis",) if stage == "served" else ()  # a declared drill leaves the project's alert rules out
    assert proof_of(*KEY, project).stale == own
    change_remedy(project)
    assert proof_of(*KEY, project).stale == ("remedy", *own)
    write(project, drilled(project), seed=1)
    history.write_text("".join(json.dumps(one) + "\n" for one in later[:2]))
    settings.write_text(settings.read_text().replace("observed = 60", "observed = 61"))  # no simulated plan reads it
    assert proof_of(*KEY, project).stale == ()


def test_a_later_drill_that_did_not_recover_makes_a_proof_stale(project):
    write(project, drilled(project), days_ago=2)
    write(project, drilled(project, verdict="not recovered"), days_ago=1, seed=1)
    assert proof_of(*KEY, project).stale == ("failed since",)
    write(project, drilled(project), seed=2)
    assert proof_of(*KEY, project).stale == ()


def test_a_failure_after_a_success_of_the_same_file_counts(project):
    write(project, drilled(project), drilled(project, verdict="not recovered"))
    assert proof_of(*KEY, project).stale == ("failed since",)
    write(project, drilled(project, verdict="not recovered"), drilled(project), seed=1)
    assert proof_of(*KEY, project).stale == ()


def test_a_live_failure_is_cleared_by_a_live_success_alone(project):
    write(project, drilled(project), days_ago=3)
    live = basis_of(project, SERVICE, "served", RUNBOOK, "v2")
    write(project, drilled(project, kind="live", basis=live, verdict="not recovered", seed=5), days_ago=2, seed=1)
    write(project, drilled(project), days_ago=1, seed=2)
    found = proof_of(*KEY, project)
    assert found.stale == ("failed since",)
    assert (found.failed.seed, found.stage_to_repeat) == (5, "served")
    write(project, drilled(project, kind="live", basis=live), seed=3)
    assert proof_of(*KEY, project).stale == ()


@pytest.mark.parametrize("verdict", ["wrong cause", "asked a person"])
def test_a_later_drill_of_the_same_alert_and_fault_that_ends_badly_counts_against_the_proof(project, verdict):
    write(project, drilled(project), days_ago=1)
    write(project, drilled(project, verdict=verdict, cause="model", basis=None), seed=1)
    assert proof_of(*KEY, project).stale == ("failed since",)


def test_a_bad_end_of_another_fault_that_proved_nothing_does_not_count(project):
    write(project, drilled(project), days_ago=1)
    write(project, drilled(project, fault="units", verdict="wrong cause", cause="model", basis=None), seed=1)
    assert proof_of(*KEY, project).stale == ()


def test_results_that_do_not_hold_what_they_rested_on_prove_nothing(project):
    basis = basis_of(project, SERVICE, "served")
    write(project, drilled(project, basis=None), drilled(project, basis=basis, kind="live"))
    assert proof_of(*KEY, project).proven is None


def test_a_proof_of_an_earlier_build_is_stale_for_what_it_did_not_note_and_for_no_change_that_was_none(project):
    made = drilled(project)
    noted = {name: sha256 for name, sha256 in made.basis.sha256.items() if name != "code"}
    noted["remedy"] = "of lepton.toml, which no simulated drill reads"
    write(project, dataclasses.replace(made, basis=dataclasses.replace(made.basis, sha256=noted)))
    assert proof_of(*KEY, project).stale == ("build",)


def test_a_service_or_runbook_that_is_gone_makes_its_proof_stale(project):
    write(project, drilled(project))
    (project / RUNBOOK).unlink()
    (project / "slo/goog").rename(project / "slo/other")
    assert "objectives" in proof_of(*KEY, project).stale


def test_damaged_results_are_said_and_break_no_page(project):
    (project / "drills").mkdir()
    (project / "drills/20260101T000000Z-live-0.json").write_text("{")
    assert proof_words(*KEY, project).startswith("not known when last proven: ")


def test_what_a_drill_rested_on_is_read_as_it_was_written(project):
    made = drilled(project)
    write(project, made)
    held = read_results(next((project / "drills").glob("*.json")))
    assert held.drills == (made,)
    assert isinstance(held.drills[0].basis, Basis)


def test_lepton_drill_proven_lists_as_json_and_its_exit_status_says_whether_a_proof_is_stale(project, monkeypatch):
    write(project, drilled(project))
    fresh = lepton_here("drill", "--proven", "--json", project=project)
    assert fresh.returncode == 0, fresh.stderr
    held = {(one["alert"], one["runbook"], one["service"]): one for one in json.loads(fresh.stdout)}
    assert held[KEY]["drill"] == {"fault": "nulls", "severity": 0.5, "seed": 7}
    assert held[KEY]["basis"]["sha256"].keys() == {"runbook", "declaration", "objectives", "code"}
    change_objectives(project)
    stale = lepton_here("drill", "--proven", project=project)
    assert stale.returncode == 1
    assert "stale: 1" in stale.stdout


def test_a_drill_that_cannot_be_repeated_is_told_and_the_others_go_on(project, monkeypatch, capsys):
    gone = dataclasses.replace(basis_of(project, SERVICE, "declared", RUNBOOK), sha256={})
    live = dataclasses.replace(gone, stage="served")
    made = [drilled(project, service="gone", basis=gone), drilled(project, kind="live", basis=live)]
    write(project, *made)
    repeated = []

    def repeat(drills, is_live, _project, _file, model, service, seed, command):
        if service == "gone":
            raise InputError("service 'gone': not declared")
        repeated.append((drills, is_live, model, service, seed, command))
        return [made[1]]

    monkeypatch.setattr("lepton_kit.commands.drill._drilled", repeat)
    with pytest.raises(typer.Exit) as ended:
        drill_stale(project, None)
    assert ended.value.exit_code == 1
    assert repeated == [([Drill("nulls", 0.5, 7)], True, SERVICE, None, 7, "")]
    assert "not repeated: nulls of gone" in "".join(capsys.readouterr())
    drill_stale(project, None, SERVICE)  # of this service all can be repeated
    assert len(repeated) == 2


@pytest.mark.parametrize("option", [["--live"], ["--count=2"], ["--seed=1"], ["--model=x"], ["nulls"]])
def test_options_that_the_list_of_proofs_would_leave_out_are_refused(option):
    said = CliRunner().invoke(app, ["drill", "--proven", *option])
    assert isinstance(said.exception, InputError) or "give one of them" in said.output
    assert said.exit_code != 0
