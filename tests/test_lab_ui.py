"""The pages of `lepton ui`, over HTTP and in a browser."""

from __future__ import annotations

import os
import re
import signal
import tomllib
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil
import pytest
from browser import Browser
from bs4 import BeautifulSoup
from fastapi.testclient import TestClient
from helpers import PATIENCE_S, lepton_here, write_notebook
from processes import Lepton
from services import wait_for

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.lab.app import application
from lepton_kit.ops.lab.promote import promote
from lepton_kit.ops.lab.started import StartedRuns
from lepton_kit.runs.manifest import all_runs, find_run
from lepton_kit.runs.runner import Request, run_notebook

PARAMETERS = """from typing import Literal
days: int = 5  # window, days
kind: Literal['a', 'b'] = 'a'
of: list[int] = [1]
deep: bool = False"""
SETTINGS = """# what stands here
[lab]
report = false   # and stays

[schedules."hourly"]
notebook = "notebooks/story.ipynb"
cron = "0 * * * *"
"""


@pytest.fixture(scope="module")
def ui(tmp_path_factory):
    """A project with two runs and `lepton ui`: the project, a client that has come in, and the printed address."""
    project = tmp_path_factory.mktemp("ui") / "project"
    cells = ["lk.record('double', 2 * days, unit='days')", "lk.artifact('left.txt').write_text('here')"]
    write_notebook(project / "notebooks/story.ipynb", cells, PARAMETERS, title="The story")
    write_notebook(project / "runbooks/endless.ipynb", ["import time", "print('at work')\ntime.sleep(900)"])
    (project / "lepton.toml").write_text(SETTINGS)
    for days in ("6", "7"):
        assert lepton_here("run", "story", "-p", "days", days, project=project).returncode == 0
    (out := project / "ui.log").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")}
    process = Lepton("ui", "--port", "0", project=project, environment=environment, out=out)
    try:
        address = wait_for(lambda: found[0] if (found := re.findall(r"http://\S+", out.read_text())) else None)
        with httpx.Client(base_url=address.partition("/runs")[0], follow_redirects=True, timeout=60) as client:
            assert client.get(address).status_code == 200
            yield project, client, address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    going = {one.status for one in all_runs(project) if one.name == "endless"}  # where a test has started it
    assert going <= {"cancelled"}  # a run that goes on ends with the server


def text_of(answer):
    return " ".join(BeautifulSoup(answer.text, "html.parser").get_text(" ").split())


def send(client, path, **fields):
    """Send a form as a page of the server does."""
    origin = str(client.base_url).rstrip("/")
    kind = "application/x-www-form-urlencoded"
    return client.post(path, data=fields, headers={"Origin": origin, "Content-Type": kind})


def test_nobody_comes_in_without_the_token_nor_sends_a_form_from_elsewhere(ui):
    project, client, address = ui
    base = str(client.base_url)
    with httpx.Client(base_url=base) as stranger:
        assert stranger.get("/runs").status_code == 401
        assert stranger.get("/runs?token=wrong").status_code == 401
        assert stranger.post("/new/form", data={"notebook": "story"}).status_code == 401
        token = parse_qs(urlsplit(address).query)["token"][0]
        assert stranger.get("/runs", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert client.get("/runs", headers={"Host": "evil.example"}).status_code == 403
    before = len(all_runs(project))
    for headers in (
        {},
        {"Origin": "http://evil.example"},
        {"Origin": base.rstrip("/"), "Sec-Fetch-Site": "cross-site"},
    ):
        assert client.post("/new/form", data={"notebook": "story"}, headers=headers).status_code == 403
    assert len(all_runs(project)) == before
    cookie = httpx.get(address).headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie


def test_runs_are_listed_filtered_and_lead_to_their_manifests(ui):
    project, client, _ = ui
    run = find_run("story", project)
    assert run.run_id in text_of(client.get("/runs"))
    assert run.run_id in text_of(client.get("/runs?status=succeeded&text=STORY"))
    assert run.run_id not in text_of(client.get("/runs?status=failed"))
    assert "No such runs." in text_of(client.get("/runs?text=nothing+of+the+kind"))
    shown = text_of(client.get(f"/runs/{run.run_id}"))
    assert "The story" in shown and "left.txt" in shown
    assert client.get(f"/runs/{run.run_id}/manifest.json").json()["run_id"] == run.run_id
    assert client.get("/runs/none-of-it").status_code == 404
    assert client.get("/runs/..%2f..%2flepton.toml/manifest.json").status_code == 404


def test_two_runs_stand_side_by_side(ui):
    project, client, _ = ui
    newest, older = [run.run_id for run in all_runs(project) if run.name == "story" and run.trigger == "cli"][:2]
    shown = BeautifulSoup(client.get(f"/compare?run={newest}&run={older}").text, "html.parser")
    rows = [[cell.get_text() for cell in row.select("th, td")] for row in shown.select("tbody tr")]
    assert ["days", "6", "7"] in rows
    assert any(row[:3] == ["double", "12 days", "14 days"] and row[3].startswith("different") for row in rows)
    assert "two" in text_of(client.get(f"/compare?run={newest}"))


def test_the_form_has_a_field_for_each_parameter_and_says_beside_it_what_is_wrong(ui):
    _, client, _ = ui
    assert "The story" in text_of(client.get("/new"))
    form = BeautifulSoup(client.get("/new/form?notebook=story").text, "html.parser")
    assert form.select_one("#p-days")["value"] == "5"
    assert [one.get_text() for one in form.select("#p-kind option")] == ["a", "b"]
    assert form.select_one("#p-deep option[selected]").get_text() == "false"
    fields = {"notebook": "notebooks/story.ipynb", "p.days": "soon", "p.of": "[1, 2", "p.kind": "b", "p.deep": "false"}
    refused = send(client, "/new/form", **fields)
    assert refused.status_code == 422
    page = BeautifulSoup(refused.text, "html.parser")
    wrong = {one["name"] for one in page.select("[aria-invalid]")}
    assert wrong == {"p.days", "p.of"}
    assert "must be int" in page.select_one("#about-days .wrong").get_text()
    assert page.select_one("#p-days")["value"] == "soon"  # what was typed is not lost
    assert "2 of the parameters are not" in text_of(refused)


def test_a_run_goes_on_in_the_background_with_the_values_that_differ(ui):
    project, client, _ = ui
    fields = {"notebook": "notebooks/story.ipynb", "p.days": "9", "p.kind": "a", "p.of": "[1]", "p.deep": "true"}
    begun = send(client, "/new/form", **fields)
    assert begun.status_code == 200, begun.text
    there = wait_for(lambda: "/runs/" in (path := client.get(begun.url).url.path) and path)
    run = wait_for(lambda: (found := find_run(there.rpartition("/")[2], project)).ended and found)
    assert (run.status, run.given_parameters) == ("succeeded", {"days": 9, "deep": True})
    again = BeautifulSoup(client.get(f"/new/form?notebook=story&run={run.run_id}").text, "html.parser")
    assert again.select_one("#p-days")["value"] == "9"


def test_a_run_shows_its_progress_and_is_cancelled_by_its_button(ui):
    project, client, _ = ui
    send(client, "/new/form", notebook="runbooks/endless.ipynb")
    run = wait_for(lambda: next((one for one in all_runs(project) if one.name == "endless"), None))
    shown = wait_for(lambda: "at work" in (said := text_of(client.get(f"/runs/{run.run_id}"))) and said)
    assert "Cell 3 of 3" in shown
    assert send(client, f"/runs/{run.run_id}/stop").status_code == 200
    wait_for(lambda: find_run(run.run_id, project).ended)
    assert find_run(run.run_id, project).status == "cancelled"
    assert "does not run" in text_of(send(client, f"/runs/{run.run_id}/stop"))
    send(client, "/new/form", notebook="runbooks/endless.ipynb")  # the server's end cancels this one
    wait_for(lambda: next((one for one in all_runs(project) if one.name == "endless" and not one.ended), None))


def test_a_run_is_promoted_to_a_schedule_and_the_rest_of_the_settings_stays(ui):
    project, client, _ = ui
    run = next(run for run in all_runs(project) if run.trigger == "cli")
    before = (project / "lepton.toml").read_text()
    for fields, why in [
        ({"name": "Nightly", "cron": "0 3 * * *"}, "small letters"),
        ({"name": "nightly", "cron": "61 3 * * *"}, "cron '61 3 * * *'"),
        ({"name": "nightly", "cron": "0 3 * * *", "timezone": "Nowhere"}, "timezone 'Nowhere'"),
        ({"name": "hourly", "cron": "0 3 * * *"}, "already"),
    ]:
        refused = send(client, f"/runs/{run.run_id}/schedule", **fields)
        assert refused.status_code == 422 and why in text_of(refused)
        assert (project / "lepton.toml").read_text() == before
    done = send(client, f"/runs/{run.run_id}/schedule", name="nightly", cron="0 3 * * *", timezone="Europe/Berlin")
    assert "has the schedule nightly" in text_of(done)
    after = (project / "lepton.toml").read_text()
    assert after.startswith(before.rstrip())
    assert tomllib.loads(after)["schedules"]["nightly"] == {
        "notebook": "notebooks/story.ipynb", "cron": "0 3 * * *", "timezone": "Europe/Berlin",
        "parameters": {"days": 7},
    }  # fmt: skip


def test_settings_that_nothing_can_be_added_to_are_left_alone(ui, tmp_path):
    project, _, _ = ui
    run = next(run for run in all_runs(project) if run.trigger == "cli")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/story.ipynb").write_bytes((project / "notebooks/story.ipynb").read_bytes())
    (tmp_path / "lepton.toml").write_text("schedules = { }\n")
    with pytest.raises(InputError, match=r"write it in yourself:\n\[schedules.nightly\]"):
        promote(run, "nightly", "0 3 * * *", "UTC", "", tmp_path)
    assert (tmp_path / "lepton.toml").read_text() == "schedules = { }\n"


def test_a_schedule_takes_the_newest_file_where_the_run_took_the_notebooks_own_default(tmp_path):
    (tmp_path / "lepton.toml").touch()
    write_notebook(tmp_path / "notebooks/first.ipynb", ["lk.artifact('a.txt').write_text('a')"])
    own = "from pathlib import Path\ntable: Path = 'run:first/a.txt'\nother: Path = 'run:first/a.txt'\ndays: int = 5"
    notebook = write_notebook(tmp_path / "notebooks/second.ipynb", ["1"], own)
    (tmp_path / "one.txt").touch()
    assert run_notebook(Request(tmp_path / "notebooks/first.ipynb"), tmp_path).status == "succeeded"
    run = run_notebook(Request(notebook, {"other": "one.txt", "days": 6}), tmp_path)
    assert run.given_parameters["table"].endswith("/a.txt") and "Z-first-" in run.given_parameters["table"]
    promote(run, "nightly", "0 3 * * *", "UTC", "", tmp_path)
    written = tomllib.loads((tmp_path / "lepton.toml").read_text())["schedules"]["nightly"]
    assert written["parameters"] == {"other": "one.txt", "days": 6}


def test_incidents_link_to_the_watch_by_its_own_address_in_a_page_of_its_own(tmp_path):
    (tmp_path / "lepton.toml").write_text("[notify]\naddress = 'https://ops.example.org'\n")
    (tmp_path / "incidents").mkdir()
    (tmp_path / "incidents/address").write_text("http://127.0.0.1:9\n")
    client = TestClient(application(tmp_path, StartedRuns(tmp_path)))
    link = BeautifulSoup(client.get("/incidents").text, "html.parser").select_one("header a")
    assert (link["href"], link["target"], link["rel"]) == ("https://ops.example.org", "_blank", ["noopener"])


def test_a_run_whose_process_dies_before_it_begins_is_a_page_that_says_so(tmp_path):
    (tmp_path / "lepton.toml").touch()
    started = StartedRuns(tmp_path)
    notebook = write_notebook(tmp_path / "a.ipynb", ["1"])
    started.start(Request(notebook))
    for process in psutil.Process().children():
        if "lepton_kit.runs.background" in process.cmdline():
            process.kill()
    with pytest.raises(LeptonError):
        started.all[0].wait()
    answer = TestClient(application(tmp_path, started)).get("/started/0")
    assert answer.status_code == 404 and "before the run began" in text_of(answer)


def test_every_page_is_sound_in_a_browser_and_works_by_keyboard(ui, tmp_path):
    project, client, address = ui
    base, run = str(client.base_url).rstrip("/"), find_run("story", project)
    two = "&".join(f"run={one.run_id}" for one in [run for run in all_runs(project) if run.name == "story"][:2])
    with Browser(tmp_path / "profile") as browser:
        browser.visit(address, 1280)
        wait_for(lambda: browser.value("location.pathname + location.search") == "/runs")
        for path in (
            "/runs",
            f"/runs/{run.run_id}",
            f"/compare?{two}",
            "/new",
            "/new/form?notebook=story",
            "/incidents",
        ):
            for width in (1280, 390):
                seen = browser.open(base + path, width)
                assert seen["errors"] == [] and seen["scroll"] <= width, path
            assert browser.accessibility_faults() == [], path
        browser.open(f"{base}/new/form?notebook=story", 1280)
        browser.value("document.querySelector('#p-days').focus()")
        browser.value("document.querySelector('#p-days').select()")
        browser.call("Input.insertText", text="x")
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")
        said = wait_for(
            lambda: "Nothing was started" in (text := browser.value("document.body?.innerText ?? ''")) and text
        )
    assert "parameter 'days' = 'x' (from the form): must be int" in said
