"""Runs, pages and checkpoints that somebody sent: no name in them leads out of the folder that it belongs to."""

import json
import shutil

import pytest
from helpers import ROOT, copy_folders, lepton, lepton_here, write_notebook

from lepton_kit.errors import InputError
from lepton_kit.files import SINGLE_NAME, sha256_of
from lepton_kit.ops.watch.evidence import recording_folder
from lepton_kit.project.settings import read_settings
from lepton_kit.reports.cards import Card, published, unreadable
from lepton_kit.runs.manifest import Manifest, all_runs
from lepton_kit.runs.references import resolve
from lepton_kit.runs.runner import Request, prepare, run_notebook

LEAD_AWAY = ["../../victim", "..", ".", "/etc", "a/b", "a\\b", "", ".hidden", "a\0b", "a\nb", "\ud800"]


@pytest.fixture
def site(project):
    """A project with a report site, one run, and a folder beside its runs that nobody may touch."""
    copy_folders(project, "reports")
    for folder in (project / "victim", project / "reports" / "victim", project.parent / "victim"):
        folder.mkdir(exist_ok=True)
        (folder / "precious.txt").write_text("kept")
    return project


@pytest.fixture
def run(site):
    return run_notebook(Request(write_notebook(site / "notebooks/n.ipynb", ["lk.artifact('a').write_text('1')"])), site)


def tell_otherwise(run, project, **fields):
    path = run.folder(project) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def all_is_there(project):
    folders = (project / "victim", project / "reports" / "victim", project.parent / "victim")
    return all([path.name for path in folder.iterdir()] == ["precious.txt"] for folder in folders)


@pytest.mark.parametrize("name", LEAD_AWAY)
def test_a_name_that_leads_away_is_no_single_name(name):
    assert not SINGLE_NAME.fullmatch(name)
    with pytest.raises(InputError):
        Card("runs", name, "t", "2026", "d", "g")
    with pytest.raises(InputError, match="incident"):
        recording_folder(ROOT, name)


@pytest.mark.parametrize(
    "run_id", ["../../victim", "../victim", "/victim", "20261123T101500Z-other-3f9a2c", ".", "a\0"]
)
def test_publishing_a_foreign_run_touches_nothing_beside_its_own_page(site, run, run_id):
    tell_otherwise(run, site, run_id=run_id)
    published_run = lepton_here("publish", run.run_id, project=site)
    assert published_run.returncode == 2
    assert "run_id" in published_run.stderr and "Traceback" not in published_run.stderr
    assert all_is_there(site)
    assert all_runs(site) == []  # and the lists of runs leave it out


@pytest.mark.parametrize("file", ["../../../victim/precious.txt", "/etc/passwd", "..", ""])
def test_an_artifact_lies_in_the_runs_own_folder(site, run, file):
    tell_otherwise(run, site, artifacts=[{"file": file, "sha256": "0", "bytes": 1}])
    with pytest.raises(InputError, match=r"artifacts\.0\.file"):
        Manifest.load(run.folder(site) / "manifest.json")


def test_a_card_that_names_another_page_is_refused_and_takes_nothing_away(site, run):
    assert lepton_here("publish", run.run_id, project=site, LEPTON_QUARTO="none").returncode == 0
    card = site / "reports" / "runs" / run.run_id / "card.json"
    for fields in ({"id": "../../victim"}, {"id": "other"}, {"kind": "../victim"}, {"kind": "models"}):
        card.write_text(json.dumps({**json.loads(card.read_text()), **fields}))
        assert published(site / "reports") == []
        assert "not the card of a published page" in unreadable(site / "reports")[0].reason
        assert lepton_here("unpublish", fields.get("id", run.run_id), project=site).returncode == 2
        assert all_is_there(site)


def test_a_link_in_a_foreign_run_is_not_published(site, run):
    notebook = run.folder(site) / "notebook.ipynb"
    secret = site.parent / "elsewhere.ipynb"
    shutil.move(notebook, secret)
    notebook.symlink_to(secret)
    lepton_here("publish", run.run_id, project=site, LEPTON_QUARTO="none")
    assert not (site / "reports" / "runs" / run.run_id / "notebook.ipynb").exists()


def test_a_checkpoint_that_names_another_file_neither_reads_nor_replaces_it(site):
    cells = [
        "value = lk.checkpoint('slow', lambda: {'a': 1})",
        "assert lk.path('go').exists()",
    ]
    path = write_notebook(site / "notebooks/n.ipynb", cells)
    failed = run_notebook(Request(path), site)
    note = failed.folder(site) / "checkpoints" / "slow.checkpoint"
    precious = site / "victim" / "precious.txt"
    told = {"file": "../../../victim/precious.txt", "sha256": sha256_of(precious)}
    note.write_text(json.dumps({**json.loads(note.read_text()), **told}))
    (site / "go").write_text("")
    made = lepton("resume", failed.run_id, project=site)
    assert made.returncode == 0, made.stdout + made.stderr
    assert all_is_there(site) and precious.read_text() == "kept" and precious.stat().st_nlink == 1


def test_a_reference_to_a_run_stays_below_the_runs(site):
    (site / "artifacts").mkdir()
    (site / "artifacts" / "x").write_text("")
    for reference in ("run:../x", "run:./x", "run:.hidden/x"):
        with pytest.raises(InputError, match="must read run:"):
            resolve(reference, site)


@pytest.mark.parametrize(
    "settings",
    [
        '[services."../x"]\nmodel = "goog"',
        '[services.a]\nmodel = "../x"',
        '[schedules."../x"]\nnotebook = "n"\ncron = "@daily"',
    ],
)
def test_a_service_a_model_and_a_schedule_have_names_that_can_be_folders(project, settings):
    (project / "lepton.toml").write_text(settings)
    with pytest.raises(InputError, match="setting"):
        read_settings(project)


def test_a_notebook_whose_file_name_cannot_name_a_run_is_refused_before_it_runs(project):
    path = write_notebook(project / "notebooks/n.ipynb", ["1"])
    odd = path.rename(path.with_name("a\nb.ipynb"))
    with pytest.raises(InputError, match="notebook's file name"):
        prepare(Request(odd), project)
