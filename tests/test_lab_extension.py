"""The kit's pages in a real JupyterLab: tiles in its launcher, and pages under /lepton that Jupyter guards."""

from __future__ import annotations

import json
import tomllib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from browser import Browser
from bs4 import BeautifulSoup
from helpers import ROOT, lepton_here, write_notebook
from labs import LAB, TOKEN, jupyter
from services import wait_for

from lepton_kit.ops.lab.extension import Pages
from lepton_kit.runs.manifest import all_runs, find_run

BASE = "/a%20user@home"
FRAME = "document.querySelector('iframe[title=\"Lepton Kit: Runs\"]')?.contentDocument"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A project with one run, and JupyterLab in it."""
    project = tmp_path_factory.mktemp("lab") / "project"
    write_notebook(project / "notebooks/story.ipynb", ["lk.record('double', 2 * days)"], "days: int = 5", "The story")
    (project / "lepton.toml").write_text("[lab]\nreport = false\n")
    assert lepton_here("run", "story", project=project).returncode == 0
    with jupyter(project, tmp_path_factory.mktemp("home"), BASE) as client:
        yield project, client


def test_jupyter_guards_the_pages_and_their_forms(lab):
    project, client = lab
    base = client.base_url
    with httpx.Client(base_url=base) as stranger:
        assert stranger.get("/lepton/runs").status_code in (302, 403)
        assert stranger.post("/lepton/new/form", data={"notebook": "story"}).status_code == 403
    with httpx.Client(base_url=base, follow_redirects=True, timeout=60) as person:
        shown = person.get(f"/lepton/runs?token={TOKEN}")
        assert find_run("story", project).run_id in shown.text
        assert "frame-ancestors 'self'" in shown.headers["content-security-policy"]
        form = BeautifulSoup(person.get("/lepton/new/form?notebook=story").text, "html.parser").form
        assert form["action"] == f"{BASE}/lepton/new/form"
        fields = {"notebook": "notebooks/story.ipynb", "p.days": "8"}
        assert person.post("/lepton/new/form", data=fields).status_code == 403  # without what the form brings
        fields["_xsrf"] = form.select_one("[name=_xsrf]")["value"]
        assert person.post("/lepton/new/form", data=fields).status_code == 200
    run = wait_for(lambda: next((one for one in all_runs(project) if one.trigger == "lepton ui" and one.ended), None))
    assert (run.status, run.results["double"].value) == ("succeeded", 16)


def test_a_report_page_that_the_browser_has_already_is_not_sent_again(lab):
    project, client = lab
    (project / "reports/_site").mkdir(parents=True)
    (project / "reports/_site/page.html").write_text("the page")
    first = client.get("/lepton/reports/page.html")
    assert (first.status_code, first.text) == (200, "the page")
    again = client.get("/lepton/reports/page.html", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.text) == (304, "")


def test_the_pages_are_made_once(tmp_path, monkeypatch):
    monkeypatch.delenv("LEPTON_PROJECT", raising=False)
    (tmp_path / "lepton.toml").touch()
    pages = Pages(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        apps = {id(one) for one in pool.map(lambda _: pages.app(), range(8))}
    assert len(apps) == 1


def test_the_launcher_has_three_tiles_and_one_opens_the_runs(lab, tmp_path):
    project, client = lab
    run = find_run("story", project)
    with Browser(tmp_path / "profile") as browser:
        browser.visit(f"{client.base_url}lab?token={TOKEN}&reset", 1400)
        titles = "[...document.querySelectorAll('.jp-LauncherCard')].map(card => card.title)"
        wait_for(lambda: len([one for one in browser.value(titles) if "manifests and comparison" in one]) == 1)
        labels = browser.value("[...document.querySelectorAll('.jp-LauncherCard-label')].map(one => one.innerText)")
        assert {"New runbook", "Incidents", "Runs"} <= set(labels)
        browser.value("document.querySelector('.jp-LauncherCard[title*=\"manifests and comparison\"]').click()")
        text = wait_for(lambda: browser.value(f"{FRAME}?.body?.innerText"))
        wait_for(lambda: run.run_id in (browser.value(f"{FRAME}?.body?.innerText") or ""))
        browser.value(f"{FRAME}.querySelector('a[href$=\"{run.run_id}\"]').click()")
        wait_for(lambda: "Promote to schedule" in (browser.value(f"{FRAME}?.body?.innerText") or ""))
        browser.picture(tmp_path / "lab.png")
    assert "Runs" in text


def test_the_wheel_brings_the_extension_and_its_version_is_the_kits():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared["lepton_kit/ops/lab/labextension"] == "share/jupyter/labextensions/lepton-kit"
    about = json.loads((LAB / "labextension" / "package.json").read_text())
    assert about["version"] == project["project"]["version"]
    assert (LAB / "labextension" / about["jupyterlab"]["_build"]["load"]).is_file()
    settings = json.loads((LAB / "lepton_kit_server.json").read_text())
    assert settings["ServerApp"]["jpserver_extensions"] == {"lepton_kit.ops.lab.extension": True}
