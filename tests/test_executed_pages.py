"""The pages of models and of drills: runbooks that are run for them, and run again when what they read changed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from helpers import ROOT, copy_folders, lepton_here
from test_drill_results import CALM, GOOD, LOST, results
from test_reports import facts_of, words_of

from lepton_kit import __version__
from lepton_kit.errors import InputError
from lepton_kit.models.registry import Registry
from lepton_kit.ops.drill_results import read_results
from lepton_kit.ops.executed_pages import publish_drills, publish_model, publish_promoted
from lepton_kit.reports.cards import published
from lepton_kit.reports.publish import unpublish
from lepton_kit.reports.site import build_site
from lepton_kit.runs.manifest import finished_runs

HOSTILE = "<script>document.title='owned'</script> | `x` ``` {{< env HOME >}} ::: [a](b)"
EXAMPLES = ROOT / "runbooks" / "examples"
JUDGED = "20261129T200904Z-03-evaluation-44e0f8"


def made(folder: Path) -> Path:
    """A project with an empty report site, rendered without Quarto."""
    copy_folders(folder, "reports")
    (folder / "lepton.toml").write_text("")
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEPTON_QUARTO", "none")
    return made(tmp_path)


def page_of(project: Path, address: str) -> BeautifulSoup:
    page = build_site(project).folder / address / "index.html"
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


# --- drills -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A project with a page of four drills, one of which means harm, and their file."""
    project = made(tmp_path_factory.mktemp("drilled"))
    evil = dataclasses.replace(LOST, fault=HOSTILE, error=HOSTILE, actions=(HOSTILE,), alert=HOSTILE)
    good = dataclasses.replace(GOOD, extra={"project": "/home/kim/secret"})
    said = {"nulls": "values go missing", HOSTILE: HOSTILE}
    path = results(project, [good, CALM, LOST, evil], faults=said, command="lepton drill nulls")
    publish_drills(project, path)
    return project, path


@pytest.fixture
def drills_page(drilled: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> BeautifulSoup:
    monkeypatch.setenv("LEPTON_QUARTO", "none")
    project, path = drilled
    return page_of(project, f"drills/{path.stem}")


def test_a_page_says_what_the_drills_came_to_and_why_some_did_not_end_well(drills_page):
    text = words_of(drills_page)
    assert words_of(facts_of(drills_page)["Results"]).startswith("Ended as they should 2 of 4 drills")
    assert f"by version {__version__} of the kit" in text
    assert "2 of 4 simulated drills ended as they should." in text
    assert "Of 3 with a fault, 1 had the right remedy named first." in text
    assert "Short of its target: macro-F1, right remedy first." in text
    assert "values go missing" in text
    assert "lepton drill nulls" in text
    assert "lost-worker, severity 0.50, seed 7" in text
    assert "asked a person: an alert fired, and the evidence did not decide; no worker to restart" in text
    assert "Too few to tell: a cause was named in 2 drills, and 30 are needed." in text
    assert [figure["alt"][:16] for figure in drills_page.select("figure img")] == ["A grid of counts"]


def test_text_of_a_fault_never_becomes_markup(drills_page):
    assert not [script for script in drills_page.select("script") if "owned" in script.text]
    assert drills_page.title.text.startswith("4 simulated drills")
    assert words_of(drills_page).count("<script>document.title='owned'</script>") >= 3


def test_what_may_be_taken_along_tells_nothing_of_the_folders_of_whoever_made_it(drilled, drills_page):
    project, path = drilled
    held = (project / "reports/_site/drills" / path.stem / "drills.json").read_text()
    assert "/home/kim" not in held
    assert len(json.loads(held)["drills"]) == 4
    assert drills_page.select("a[href='drills.json']")


def test_the_same_results_are_neither_run_nor_rendered_again(drilled, drills_page):
    project, path = drilled
    publish_drills(project, path)
    assert build_site(project).rendered == ()
    assert len(finished_runs(project)) == 1


def test_a_drill_page_is_listed_and_taken_away_again(drilled, tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_QUARTO", "none")
    project = shutil.copytree(drilled[0], tmp_path / "copy", symlinks=True)
    name = drilled[1].stem
    listing = BeautifulSoup((build_site(project).folder / "drills.html").read_text(), "html.parser")
    assert [link["href"] for link in listing.select("main a[href$='index.html']")] == [f"drills/{name}/index.html"]
    assert "2 of 4" in listing.text
    assert [card.kind for card in published(project / "reports")] == ["drills"]  # its run is no page of its own
    unpublish(project, [name])
    site = build_site(project).folder
    assert not (site / "drills" / name).exists()
    assert name not in "".join(page.read_text() for page in site.glob("*.html"))


def test_a_curve_of_stated_probabilities_is_drawn_of_many_drills():
    cells = nbformat.read(ROOT / "runbooks" / "drill-scores.ipynb", 4).cells
    (cell,) = (cell for cell in cells if "fig-reliability" in cell.source)
    assert any("image/png" in output.get("data", {}) for output in cell.outputs)


@pytest.mark.parametrize(
    ("drilled", "name", "said"), [([], "x.json", "holds no drill"), ([GOOD], "a b.json", "its name")]
)
def test_results_that_give_no_page_are_an_error(project, drilled, name, said):
    path = results(project, drilled).rename(project / "drills" / name)
    with pytest.raises(InputError, match=said):
        publish_drills(project, path)
    assert not (project / "reports" / "drills").exists()


def test_the_command_publishes_the_newest_results_or_those_that_are_named(project):
    for name in ("slo", "subjects"):
        (project / name).symlink_to(ROOT / name)
    (project / "lepton.toml").write_text('[services.goog]\nmodel = "goog"\nsubject = "subjects.prices"\n')
    made = lepton_here("drill", "nulls", "--seed", "4", project=project)
    [path] = (project / "drills").glob("*.json")
    assert f"lepton publish --drills drills/{path.name}" in made.stdout
    held = read_results(path)
    assert held.command.split()[:3] == ["lepton", "drill", "nulls"]
    assert list(held.faults) == ["nulls"]
    assert lepton_here("publish", "--drills", project=project, LEPTON_QUARTO="none").returncode == 0
    assert (project / "reports/_site/drills" / path.stem / "index.html").is_file()
    assert lepton_here("publish", "--drills", "missing.json", project=project).returncode == 2
    taken = lepton_here("unpublish", path.stem, project=project, LEPTON_QUARTO="none")
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert not (project / "reports/_site/drills" / path.stem).exists()


# --- models -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a version in use, the run that judged it, and a page of it."""
    project = made(tmp_path_factory.mktemp("modelled"))
    shutil.copytree(EXAMPLES / "models", project / "models")
    shutil.copytree(EXAMPLES / "evaluation", project / "runs" / JUDGED)
    manifest = project / "runs" / JUDGED / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"run_id": JUDGED}))
    assert [card.id for card in publish_promoted(project)] == ["goog@v1"]
    return project


@pytest.fixture
def own_model(modelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to change."""
    monkeypatch.setenv("LEPTON_QUARTO", "none")
    return shutil.copytree(modelled, tmp_path / "own")


def test_a_models_page_says_where_it_stands_what_it_learnt_from_and_what_it_is_not_good_for(own_model):
    page = page_of(own_model, "models/goog@v1")
    assert page.title.text.startswith("goog v1")
    text = words_of(page)
    assert "goog@v1 is in use." in text
    assert "It learnt from 2004-10-01 to 2007-02-15." in text
    assert "Limits: learnt from one price series; " in text
    assert "The gate let it pass: better than constant volatility" in text
    assert "constant volatility" in text
    assert [figure["alt"][:18] for figure in page.select("figure img")] == ["A row per opponent"]
    assert f"runs/{JUDGED} (parameter evaluation)" in text
    assert {link["href"] for link in page.select("a[href$='.json']")} >= {"card.json", "manifest.json"}
    [card] = published(own_model / "reports")
    assert (card.kind, card.id, card.group, dict(card.facts)) == (
        "models", "goog@v1", "goog", {"standing": "in use", "gate": "passed"},
    )  # fmt: skip


def test_a_card_is_run_again_only_when_what_it_reads_has_changed(own_model):
    before = len(finished_runs(own_model))
    publish_promoted(own_model)
    assert len(finished_runs(own_model)) == before
    registry = Registry(own_model / "models")
    shutil.copytree(own_model / "models/goog/v1", own_model / "models/goog/v2")
    (own_model / "models/goog/v1/model.safetensors").write_bytes(b"another")
    registry.promote("goog", "v2", "test", "better")
    cards = {card.id: card for card in publish_promoted(own_model)}
    assert {id: card.facts["standing"] for id, card in cards.items()} == {"goog@v1": "earlier", "goog@v2": "in use"}
    assert cards["goog@v2"].facts["gate"] == "not judged"
    text = words_of(page_of(own_model, "models/goog@v1"))
    assert "Its files are not those that were kept." in text
    assert "goog/v1/model.safetensors: has been changed" in text


@pytest.mark.parametrize(("given", "said"), [("none", "no version of it"), ("goog@v9", "no such version")])
def test_a_model_that_is_not_there_has_no_page(own_model, given, said):
    with pytest.raises(InputError, match=said):
        publish_model(own_model, given)
    assert [card.id for card in published(own_model / "reports")] == ["goog@v1"]
