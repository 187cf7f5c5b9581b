"""What a runbook says it found is about the recording that it was given, never about the one that ships."""

import json
import shutil
from dataclasses import replace

import incident_variants as variants
import nbformat
import pytest
from helpers import ROOT, copy_folders, lepton
from test_drill_results import LOST
from test_postmortem import content, recorded

from lepton_kit.diagnosis import judgement
from lepton_kit.ops.drill_results import write_results
from lepton_kit.runs.manifest import Manifest, all_runs
from lepton_kit.telemetry.recordings import read_recording, write_recording

RUNBOOKS = sorted(path.stem for path in (ROOT / "runbooks").glob("*.ipynb"))
OTHER = {  # an incident of another kind than the one that ships with the runbook
    "drift-watch": lambda folder: variants.wrong_unit(100),
    "incident-diagnosis": lambda folder: variants.nulls(),
    "repair-capacity": lambda folder: read_recording(ROOT / "runbooks/recordings/missing-values"),
    "repair-data": lambda folder: variants.wrong_unit(100),
    "repair-model": lambda folder: variants.damaged_in_service(folder),
    "service-health": lambda folder: variants.failing(),
}


def numbers(name: str, run: Manifest) -> list[str]:
    """What the words of a runbook must hold, by the results of the same run."""
    said = {key: result.value for key, result in run.results.items()}
    if name == "drift-watch":
        return [said["next_action"], f"{sum(row[-2] for row in said['effects']['rows'])} of them also moved"]
    if name == "incident-diagnosis":
        share = f"{100 * said['right_during']:.4g} % of {said['rows_during']}"
        return [f"Cause: {said['cause']}", f"{said['probability']:.0%}", share, said["next_action"]]
    if name == "model-card":
        return [f"{said['model']}@{said['version']} is {said['standing']}", "It learnt from 2010-01-04 to 2010-06-30."]
    if name == "drill-scores":
        return [f"{said['ended_well']} of 1 live drills", "Of 1 with a fault, 0 had", "Short of its target: macro-F1"]
    if name == "rehearsal":
        return [
            f"Cause by the diagnosis: {said['cause']}",
            f"fired {said['detected_after']:.0f} s later",
            said["verdict"],
        ]
    if name == "postmortem":
        return [f"fired {said['time_to_detect_s']:.0f} s", f"Of {said['requests']} requests", said["cause"]]
    if name == "service-health":
        return [f"availability {said['availability']:.3g}", f"p95 {said['p95']:.3g}", said["next_action"]]
    shares = [f"{100 * float(said[key]):.4g} %" for key in ("sli_before", "sli_during") if said[key] != "nan"]
    return [*shares, said["action"], f"Verdict: {said['verdict']}"]


def words_of(notebook) -> list[str]:
    """The sentences that the notebook says it found."""
    (cell,) = (cell for cell in notebook.cells if cell.get("id") == "found")
    (output,) = cell.outputs
    return output["data"]["text/plain"].splitlines()


def given(name: str, project) -> list[str]:
    """Write what the runbook is run on; return its parameters."""
    if name in OTHER:
        write_recording(OTHER[name](project), project / "other")
        return ["-p", "recording", "other"]
    if name == "model-card":
        other = shutil.copytree(ROOT / "runbooks/examples/models/goog/v1", project / "models/other/v3")
        data = {"train": ["2010-01-04", "2010-06-30"]}
        (other / "card.json").write_text(json.dumps({"data": data, "limits": "tried with 3 users"}))
        return ["-p", "version", "models/other/v3", "-p", "history", "null", "-p", "evaluation", "null"]
    if name == "drill-scores":
        return ["-p", "results", write_results([LOST], project, 5, live=True).name]
    if name == "rehearsal":  # of a service with another simulation
        copy_folders(project, "subjects")
        return ["-p", "service", "recommender", "-p", "fault", "bad-version"]
    history = content()
    (project / "history.json").write_text(json.dumps(history))
    recording = recorded(0, 30, failing=range(5, 15))
    incident = recording.incident.model_copy(update={"id": history["id"]})
    write_recording(replace(recording, incident=incident), project / "other")
    write_recording(recorded(30, 40), project / "after")
    (project / "judgement.md").write_text(judgement.template(history["id"]))
    files = {"recording": "other", "history": "history.json", "after": "after", "judgement": "judgement.md"}
    return [word for name, file in files.items() for word in ("-p", name, file)]


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_on_another_recording_tells_of_that_one(name, project):
    copy_folders(project, "runbooks", "slo", without=("recordings",))
    shipped = words_of(nbformat.read(ROOT / "runbooks" / f"{name}.ipynb", 4))
    trials = ["-p", "trials", "1"] if name in ("repair-data", "repair-model") else []
    done = lepton("run", f"runbooks/{name}.ipynb", *given(name, project), *trials, project=project)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = all_runs(project)
    words = words_of(nbformat.read(run.folder(project) / "notebook.ipynb", 4))
    story = [sentence for sentence in shipped if any(letter.isdigit() for letter in sentence)]
    assert story, "the shipped incident has numbers of its own"
    assert not set(story) & set(words)
    assert not [number for number in numbers(name, run) if number not in " ".join(words)], words
    assert "nan" not in " ".join(words)


@pytest.mark.parametrize("name", RUNBOOKS)
def test_no_words_of_a_runbook_tell_the_story_of_the_recording_that_ships(name):
    notebook = nbformat.read(ROOT / "runbooks" / f"{name}.ipynb", 4)
    places = [i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## What we found")]
    assert [notebook.cells[i].source for i in places] == ["## What we found"]
    assert notebook.cells[places[0] + 1].cell_type == "code"
    prose = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").lower()
    for told in ("recording that ships", "ships with the kit", "in the recording of a drill", "2007", "2008"):
        assert told not in prose
