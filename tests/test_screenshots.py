"""The screenshots of the README: which incident they show, and that none is too large to be committed."""

from __future__ import annotations

import sys

import pytest
from helpers import ROOT
from repairs import Everything, project_with_repairs, proposal, propose
from watching import alert

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert

sys.path.append(str(ROOT / "reports/screenshots"))
import take  # it is no part of the package


def repair(queue, number):
    """Let the repair of an incident run, and its alert end."""
    job = queue.take()
    assert job.kind == "remedy"
    queue.end(job, f"run-{job.number}", "succeeded")
    queue.receive([Alert.model_validate(alert(number, "resolved"))], "webhook", Everything())


def test_the_newest_incident_that_a_repair_ended_is_shown_or_else_the_newest_that_was_diagnosed(project):
    queue = Queue(project_with_repairs(project))
    with pytest.raises(InputError, match="no diagnosed incident in"):
        take.incident_to_show(project)
    first = propose(queue, proposal(), number=1)
    assert take.incident_to_show(project) == first
    repair(queue, 1)
    propose(queue, number=2)
    assert take.incident_to_show(project) == first


def test_a_screenshot_that_is_too_large_for_the_repository_is_refused(tmp_path):
    with pytest.raises(InputError, match="screenshot home: 150,001 bytes; at most 150,000"):
        take.save({"home": bytes(take.LARGEST + 1)}, tmp_path)
    with pytest.raises(InputError, match="together; at most"):
        take.save({str(number): bytes(take.LARGEST) for number in range(5)}, tmp_path)
    assert not list(tmp_path.iterdir())
    take.save({"home": b"small"}, tmp_path)
    assert (tmp_path / "home.png").read_bytes() == b"small"
