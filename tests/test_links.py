"""Signed links to decide on a repair, on a real `lepton watch`: once, for a while, and for this repair alone."""

import re

import pytest
from repairs import SETTINGS, project_with_repairs, proposal, propose, repairs_made
from services import wait_for
from watching import watching

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.approvals import make_decision
from lepton_kit.ops.watch.links import Links
from lepton_kit.ops.watch.notify import newest
from lepton_kit.ops.watch.queue import Queue

KEY = "the key of links"


@pytest.fixture
def asked(project):
    """Give a project with two repairs that wait, a token for the page, and a key for links."""
    project_with_repairs(project)
    settings = SETTINGS.replace("[watch]\n", '[watch]\ntoken = "env:WATCH_TOKEN"\n').replace(
        "workers = 2", "workers = 0"
    )
    notify = '\n[notify]\nurls = ["env:NOTIFY_URL"]\nlinks = "env:LINK_KEY"\n'
    (project / "lepton.toml").write_text(settings + notify)
    propose(Queue(project), proposal("data", "the policy of this cause is to ask"), proposal("compute", "ask too"))
    return project


def decide(kit, job, link, **more):
    fields = {"job": str(job), "decision": "approve", "by": "Kim Lee", "note": "", **more}
    return kit.client.post(f"/decide/{link}", data=fields)


def test_who_gets_a_notice_decides_by_its_link_once_and_without_a_token(asked, receiver):
    with watching(asked, WATCH_TOKEN="secret", LINK_KEY=KEY) as kit:
        first, second = kit.queue.waiting()
        wait_for(lambda: sum(one.startswith("Waits") for one in receiver.titles()) == 2)
        notice = next(one for one in receiver.bodies if "data repair" in one["title"])["message"]
        [found] = re.findall(r"Decide \(once, within 60 minutes\): (\S+)", notice)
        assert found.startswith(str(kit.client.base_url))
        link = found.rpartition("/")[2]
        page = kit.client.get(f"/decide/{link}")
        assert page.status_code == 200
        assert page.text.count(f'action="/decide/{link}"') == 1  # in the form of its repair
        assert page.text.count('name="token"') == 1  # in that of the other one
        done = decide(kit, second.job, link)  # whatever job the form names
        assert (done.status_code, "is recorded" in done.text) == (200, True)
        assert [one.job for one in kit.queue.waiting()] == [second.job]
        [made] = next(one for one in kit.queue.remedies(first.incident) if one.job == first.job).decisions
        assert (made.by, made.via) == ("Kim Lee", "signed link")
        again = decide(kit, first.job, link)
        assert (again.status_code, "was used already" in again.text) == (422, True)
        assert kit.client.get(f"/decide/{link}").status_code == 410
        assert all("/decide/" not in row["body"] for row in newest(kit.queue, 9))  # no link is kept


def test_a_link_is_of_one_key_for_some_minutes_and_one_decision(asked):
    queue, links = Queue(asked), Links(b"key", 60)
    [one, _] = queue.waiting()
    link = links.path(one).removeprefix("/decide/")
    assert links.repair(link, queue) == one
    for wrong in ("", "x", link[:-1], link + "x", Links(b"other", 60).sign(one.job, 0), "é" * 10_000):
        with pytest.raises(InputError, match="not one of this server"):
            links.repair(wrong, queue)
    with pytest.raises(InputError, match="older than -1 minutes"):
        Links(b"key", -1).repair(link, queue)
    queue.decide(one.job, make_decision(True, "Kim", "lepton approve", ""))
    job = queue.take()
    queue.hold(job, "broken off")  # it waits again, and that is another question
    with pytest.raises(InputError, match="was used already"):
        links.repair(link, queue)
    assert repairs_made(asked) == []


def test_without_a_key_there_are_no_links(asked):
    (asked / "lepton.toml").write_text((asked / "lepton.toml").read_text().replace("links =", "# links ="))
    link = Links(b"", 60).sign(1, 0)
    with watching(asked, WATCH_TOKEN="secret", NOTIFY_URL="json://127.0.0.1:9") as kit:
        assert kit.client.get(f"/decide/{link}").status_code == 404
        assert decide(kit, 1, link).status_code == 422
        assert len(kit.queue.waiting()) == 2
