"""Notebooks 01 to 05 for a subject that the kit did not make, by its declaration alone."""

import json
import shutil

import nbformat
import pandas as pd
import pytest
from helpers import copy_folders, lepton

from lepton_kit.errors import InputError
from lepton_kit.models.registry import Registry
from lepton_kit.project.subjects import find_subject
from lepton_kit.runs.manifest import finished_runs
from lepton_kit.runs.notebooks import chosen_cells, tags

STEPS: dict[str, list[str]] = {
    "01-data-cleaning": [],
    "02-training": [],
    "03-evaluation": [],
    "04-deployment": ["-p", "steps", "[50.0, 100.0]", "-p", "requests_per_step", "100", "-p", "latency_limit", "5000"],
    "05-optimisation": ["-p", "goal", "bytes", "-p", "sweep_widths", "[8, 16]"],
}


FOUND = {  # what the notebook must say of this subject
    "01-data-cleaning": "569 rows were read and 569 are left",
    "02-training": "loses least of 3 models on",
    "03-evaluation": "The gate lets the candidate pass",
    "04-deployment": "Of 200 requests 0 got no answer",
    "05-optimisation": "times less disk than the original",
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A project in which the notebooks ran for scoring."""
    project = tmp_path_factory.mktemp("scored")
    (project / "lepton.toml").write_text("")
    copy_folders(project, "notebooks", "subjects")
    for step, values in STEPS.items():
        made = lepton("run", f"notebooks/{step}.ipynb", "-p", "subject", "scoring", *values, project=project)
        assert made.returncode == 0, made.stdout + made.stderr
    return project


def test_the_story_runs_for_another_subject_by_its_declaration(scored):
    runs = {run.name: run for run in finished_runs(scored)}
    results = {name: {key: held.value for key, held in run.results.items()} for name, run in runs.items()}
    assert results["01-data-cleaning"]["rows_clean"] == 569
    assert results["02-training"]["task"] == "classification_binary"
    assert results["02-training"]["gain_over_naive"] > 0.5
    assert results["03-evaluation"]["hits"] > 0.85
    assert results["03-evaluation"]["promote"] is True
    assert (results["04-deployment"]["outcome"], results["04-deployment"]["unanswered"]) == ("promoted", 0)
    assert results["04-deployment"]["refusal"].startswith("model.skops")
    assert [run.inputs[0].run for run in (runs["02-training"],)] == [runs["01-data-cleaning"].run_id]
    assert runs["01-data-cleaning"].title == "Data cleaning: can this table be trusted?"


def test_the_model_is_kept_without_a_pickle_and_its_card_says_whose_data_it_has_seen(scored):
    shelf = Registry(scored / "models")
    model, card = shelf.load("scoring"), shelf.card("scoring")
    assert (model.task.name, card["subject"], card["parameters"]["model"]) == (
        "classification_binary", "scoring", "linear",
    )  # fmt: skip
    assert (shelf.folder("scoring") / "model.skops").is_file()
    rows = find_subject("scoring", scored).table()
    assert model.predict(rows.head(5))["proba"].between(0, 1).all()


def test_a_run_holds_no_word_of_another_subjects_story(scored):
    for run in finished_runs(scored):
        notebook = nbformat.read(run.folder(scored) / "notebook.ipynb", 4)
        assert not [cell for cell in notebook.cells if "if:subject=prices*" in tags(cell)]
        assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


def test_a_table_of_another_subject_trains_nothing(scored, tmp_path):
    shutil.copytree(scored, project := tmp_path / "p")
    cleaned = next(run for run in finished_runs(project) if run.name == "01-data-cleaning")
    table = cleaned.folder(project) / "artifacts/clean.parquet"
    (project / "lepton.toml").write_text(
        '[services.other]\ntask = "classification_binary"\ncolumns.target = "malignant"\n'
    )
    before = Registry(project / "models").versions("scoring")
    made = lepton(
        "run", "notebooks/02-training.ipynb", "-p", "subject", "other", "-p", "table", str(table), project=project
    )
    assert made.returncode != 0
    assert "is of the subject 'scoring', not 'other'" in made.stdout + made.stderr
    assert Registry(project / "models").versions("scoring") == before


def test_a_smaller_form_of_another_subjects_model_is_advised_judged_and_registered(scored):
    run = next(run for run in finished_runs(scored) if run.name == "05-optimisation")
    results = {key: held.value for key, held in run.results.items()}
    assert (results["task"], results["reason"], results["may_stand_in"]) == ("classification_binary", "pays", True)
    shelf = Registry(scored / "models")
    smaller = shelf.compressed("scoring")
    assert results["compressed_version"] == f"scoring {smaller}"
    assert (shelf.folder("scoring", smaller) / "model.onnx").is_file()
    card = shelf.card("scoring", smaller)
    assert (card["subject"], card["compression"]["candidate"]) == ("scoring", results["candidate"])
    rows = find_subject("scoring", scored).table()
    given = [shelf.load("scoring", version).predict(rows)["proba"] for version in (shelf.current("scoring"), smaller)]
    assert (given[0] - given[1]).abs().mean() < 0.05
    assert not any(name in results for name in ("trials", "chosen_settings"))  # which are of prices


def test_with_no_version_in_use_the_deployment_ends_early_and_leaves_a_record_of_it(tmp_path):
    (tmp_path / "lepton.toml").write_text("")
    copy_folders(tmp_path, "notebooks", "subjects")
    (tmp_path / "models").mkdir()
    (tmp_path / "clean.parquet").touch()  # which nothing reads any more
    refused = {"name": "goog", "version": "v1", "promoted": False, "reasons": ["too wide"], "run_id": "a-run"}
    (tmp_path / "decision.json").write_text(json.dumps(refused))
    given = ("-p", "decision", "decision.json", "-p", "table", "clean.parquet")
    made = lepton("run", "notebooks/04-deployment.ipynb", *given, project=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    (run,) = finished_runs(tmp_path)
    assert run.ended_early == "nothing to deploy: the gate refused goog v1, and no version of goog is in use"
    assert run.results["deployed"].value is False
    left = json.loads((run.folder(tmp_path) / "artifacts/deployment.json").read_text())
    assert (left["version"], left["deployed"], left["reasons"]) == (None, False, ["too wide"])


def test_what_was_found_of_another_subject_is_made_of_its_results(scored):
    for run in finished_runs(scored):
        cells = nbformat.read(run.folder(scored) / "notebook.ipynb", 4).cells
        (place,) = [place for place, cell in enumerate(cells) if cell.source == "## What we found"]
        words = "\n".join(output["data"]["text/plain"] for output in cells[place + 1].outputs)
        assert FOUND[run.name] in words
        assert "nan" not in words


def test_cells_are_chosen_by_the_value_of_a_parameter():
    def cell(name, *given):
        return nbformat.v4.new_code_cell(name, metadata={"tags": list(given)})

    def chosen(**values):
        cells = [cell("a"), cell("b", "if:subject=prices*"), cell("c", "unless:subject=prices*", "skip-execution")]
        return [
            (one.source, tags(one)[1:]) for one in chosen_cells(nbformat.v4.new_notebook(cells=cells), values).cells
        ]

    assert [name for name, _ in chosen(subject="prices-brent")] == ["a", "b"]
    assert chosen(subject="scoring") == [("a", []), ("c", [])]  # what is kept is not skipped any more
    assert [name for name, _ in chosen()] == ["a", "c"]


def test_a_subject_that_is_declared_nowhere_is_refused_with_those_that_are(tmp_path):
    (tmp_path / "lepton.toml").write_text('[services.mine]\ntask = "regression"\n')
    with pytest.raises(InputError, match="subject = 'other': must be a declared service: mine"):
        find_subject("other", tmp_path)
    mine = find_subject("mine", tmp_path)
    with pytest.raises(InputError, match="has no table of its own; name one with source"):
        mine.table()
    pd.DataFrame({"x": [1.0]}).to_csv(tmp_path / "mine.csv", index=False)
    assert json.loads(mine.table(str(tmp_path / "mine.csv")).to_json()) == {"x": {"0": 1.0}}
