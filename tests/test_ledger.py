import contextlib
import subprocess
import sys
import time

import pytest
from processes import Forked
from services import wait_for

from lepton_kit.errors import InputError
from lepton_kit.runs.ledger import Ledger, Owner

CLAIM = """
import sys, time
from pathlib import Path
from lepton_kit.runs.ledger import Ledger
print(Ledger(Path(sys.argv[1])).claim("k").state, flush=True)
time.sleep(600)
"""


@pytest.fixture
def project(either_project):
    return either_project


def claimant(say, project):
    say(Ledger(project).claim("k").state)
    time.sleep(600)


def test_of_processes_that_ask_at_once_one_gets_the_key(project):
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(Forked(claimant, project)) for _ in range(4)]
        assert sorted(one.receive() for one in processes) == ["busy", "busy", "busy", "mine"]


def test_a_claim_is_taken_over_when_its_owner_was_killed_also_before_anybody_reaped_it(project):
    command = [sys.executable, "-c", CLAIM, str(project)]  # a child of this process, which does not reap it yet
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().strip() == "mine"
        assert Ledger(project).claim("k").state == "busy"
        process.kill()
        wait_for(lambda: Ledger(project).claim("k").state == "mine")


def test_a_finished_key_answers_with_its_run_and_a_released_one_can_be_run_again(project):
    ledger = Ledger(project)
    assert ledger.claim("a").state == "mine"
    ledger.finish("a", "run-1")
    assert (ledger.claim("a").state, ledger.claim("a").run_id) == ("done", "run-1")
    assert ledger.claim("b").state == "mine"
    ledger.release("b")
    assert ledger.claim("b").state == "mine"


def test_an_owner_on_another_machine_is_dead_when_its_lease_is_over():
    far = Owner("elsewhere", "other", 1, "1")
    assert far.is_dead(is_lease_over=True)
    assert not far.is_dead(is_lease_over=False)


def test_a_ledger_that_is_no_database_is_one_clear_error(plain_project):
    project = plain_project
    (project / "runs").mkdir()
    (project / "runs/ledger.sqlite").write_text("not a database at all" * 100)
    with pytest.raises(InputError, match=r"ledger\.sqlite.*backup; if there is none, move it away"):
        Ledger(project).claim("k")


def test_a_ledger_that_another_process_holds_is_no_reason_to_move_it_away(project):
    Ledger(project).claim("k")
    with Ledger(project).transaction(), pytest.raises(InputError, match="try again") as told:
        Ledger(project, busy_timeout=0.01).claim("other")
    assert "move" not in str(told.value)
