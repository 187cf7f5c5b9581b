"""The states of a job: what can happen to it in which of them, as the table says."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from lepton_kit.ops.watch import jobs
from lepton_kit.ops.watch.jobs import MOVES, STATES, Start
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.runs.tables import JOBS


@pytest.fixture
def project(either_project):
    return either_project


@pytest.mark.parametrize("event", MOVES)
def test_an_event_changes_a_job_in_the_states_of_the_table_and_in_no_other(event, project):
    before, after = MOVES[event]
    assert {*before, after} <= set(STATES)
    with Queue(project).transaction() as ledger:
        for state in STATES:
            number = jobs.add(ledger, "alert", "a", f"key:{state}", Start("n.ipynb", {}))
            ledger.execute(update(JOBS).where(JOBS.c.number == number).values(state=state))
            moved = jobs.move(ledger, event, JOBS.c.number == number)
            assert [job.state for job in moved] == ([after] if state in before else [])
            assert all((job.ended is not None) == (after in ("ended", "refused")) for job in moved)


def test_what_has_ended_or_was_refused_stays_so():
    assert not {state for before, _ in MOVES.values() for state in before} & {"ended", "refused"}


def test_a_job_is_made_once_for_its_key(project):
    with Queue(project).transaction() as ledger:
        first = jobs.add(ledger, "alert", "a", "key", Start("n.ipynb", {"days": 1}))
        assert jobs.add(ledger, "alert", "a", "key", Start("n.ipynb", {})) is None
    [job] = Queue(project).jobs()
    assert (job.number, job.parameters, job.state) == (first, {"days": 1}, "queued")
