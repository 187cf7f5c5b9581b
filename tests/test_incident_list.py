"""Incidents and the repairs that wait, as commands list and know them; without any process."""

import json

import pytest
from helpers import copy_folders, lepton_here
from repairs import Everything, proposal, propose
from watching import alert

from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert

LONG = "TheFreshnessOfAllThatTheModelIsFedIsLost"


@pytest.fixture
def listed(project):
    """A project with an incident whose repair waits, and two others, one of a long name; return it and their ids."""
    queue = Queue(project)
    first = propose(queue, proposal("data", "the policy of this cause is to ask, which is a long reason"))
    others = [Alert.model_validate(alert(number, alertname=name)) for number, name in ((0x11, "Other"), (0x21, LONG))]
    queue.receive(others, "webhook", Everything())
    return project, [first, *(one.incident for one in others)]


def short(id):
    return id.rpartition("-")[2]


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("command", ["incidents", "approve"])
def test_each_has_one_line_that_begins_with_its_short_id(listed, command, columns):
    project, ids = listed
    listing, _, _ = lepton_here(command, project=project, COLUMNS=str(columns)).stdout.partition("\n\n")
    shown = listing.splitlines()  # beneath it, what each waiting repair would do
    wanted = ids if command == "incidents" else ids[:1]
    assert sorted(line.split()[0] for line in shown[1:]) == sorted(map(short, wanted))
    assert max(map(len, shown)) <= columns
    if columns == 200:
        assert all(any(id in line for line in shown) for id in wanted)


def test_short_ids_are_taken_by_every_command_and_several_that_are_meant_are_named(listed):
    project, ids = listed
    found = lepton_here("incidents", short(ids[1]), "--json", project=project)
    assert json.loads(found.stdout)["id"] == ids[1]
    assert ids[1] in lepton_here("incidents", short(ids[1]), project=project).stdout
    copy_folders(project, "reports")
    for words in (["incidents", "20261125"], ["publish", "--incident", "20261125"]):
        wrong = lepton_here(*words, project=project)
        assert (wrong.returncode, "matches" in wrong.stderr) == (2, True), words
        assert ids[1] in wrong.stderr and ids[2] in wrong.stderr
    for words in (["incidents", "none"], ["publish", "--incident", "none"], ["approve", short(ids[1])]):
        assert lepton_here(*words, project=project).returncode == 2
    assert "approved by Kim" in lepton_here("approve", short(ids[0]), "--by", "Kim", project=project).stdout


def test_an_incident_is_published_and_taken_away_by_its_short_id(listed, monkeypatch):
    project, ids = listed
    copy_folders(project, "reports")
    published = lepton_here("publish", "--incident", short(ids[1]), project=project, LEPTON_QUARTO="none")
    assert published.returncode == 0, published.stderr
    page = project / "reports/_site/incidents" / ids[1] / "index.html"
    assert page.is_file()
    gone = lepton_here("unpublish", short(ids[1]), project=project, LEPTON_QUARTO="none")
    assert gone.returncode == 0, gone.stderr
    assert not page.exists()
