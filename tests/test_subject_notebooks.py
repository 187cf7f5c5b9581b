"""Notebooks 01 to 04 for a subject that the kit did not make, by its declaration alone."""

import json
import shutil

import nbformat
import pandas as pd
import pytest
from helpers import ROOT, copy_folders, lepton

from lepton_kit.errors import InputError
from lepton_kit.models.registry import Registry
from lepton_kit.project.subjects import find_subject
from lepton_kit.runs.manifest import finished_runs
from lepton_kit.runs.notebooks import chosen_cells, tags

STEPS: dict[str, list[str]] = {
    "01-data-cleaning": [],
    "02-training": [],
    "03-evaluation": [],
    "04-deployment": ["-p", "steps", "[50.0, 100.0]", "-p", "requests_per_step", "100"],
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A project in which the first four notebooks ran for scoring."""
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


def test_what_does_not_apply_to_another_subject_says_so_before_anything_else():
    notebook = nbformat.read(ROOT / "notebooks/05-optimisation.ipynb", 4)
    kept = chosen_cells(notebook, {"subject": "scoring"}).cells
    code = [cell for cell in kept if cell.cell_type == "code"]
    (place,) = [number for number, cell in enumerate(code) if "raise InputError" in cell.source]
    assert place == 2  # imports, parameters, and no more
    with pytest.raises(InputError, match=r"subject = 'scoring': this notebook .* the forecasters of prices"):
        exec(code[place].source, {"subject": "scoring"})


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
