import threading

import pytest
from helpers import PATIENCE_S, write_notebook

from lepton_kit.runs.manifest import FILE, Manifest, all_runs
from lepton_kit.runs.runner import Options, Request, run_notebook

DIES_ONCE = """
import os
from pathlib import Path
flag = Path(os.environ['LEPTON_PROJECT']) / 'flag'
if not flag.exists():
    flag.touch()
    os._exit(3)
"""


def test_a_run_whose_kernel_died_is_tried_again_in_its_own_folder(project):
    request = Request(write_notebook(project / "notebooks/n.ipynb", [DIES_ONCE]))
    events = []
    run = run_notebook(request, project, events.append, Options(retries=2, backoff=0.01))
    first = next(each for each in all_runs(project) if each.attempt == 1)
    assert (first.status, run.status) == ("kernel_died", "succeeded")
    assert (run.attempt, run.retry_of) == (2, first.run_id)
    assert len(all_runs(project)) == 2
    assert [e.text.split(" in ")[0] for e in events if e.kind == "run_retried"] == ["kernel_died; attempt 2 of 3"]


@pytest.mark.parametrize(("cell", "status"), [("lk.expect(False, 'no')", "expectation_failed"), ("1 / 0", "failed")])
def test_a_notebooks_own_failure_is_never_retried(project, cell, status):
    request = Request(write_notebook(project / "notebooks/n.ipynb", [cell]))
    assert run_notebook(request, project, options=Options(retries=3, backoff=0.01)).status == status
    assert len(all_runs(project)) == 1


def test_two_who_ask_with_one_key_at_once_get_one_run(project):
    request = Request(write_notebook(project / "notebooks/n.ipynb", ["1"]))
    options = Options(idempotency_key="today")
    got = []
    other = threading.Thread(target=lambda: got.append(run_notebook(request, project, options=options)))
    other.start()
    mine = run_notebook(request, project, options=options)
    other.join(PATIENCE_S)
    assert [run.run_id for run in got] == [mine.run_id]
    assert len(all_runs(project)) == 1


def test_a_manifest_from_before_the_later_fields_still_loads(project):
    run = run_notebook(Request(write_notebook(project / "notebooks/n.ipynb", ["1"])), project)
    old = run.model_dump_json(exclude={"attempt", "retry_of", "resumed_from", "secrets", "checkpoints", "options"})
    path = run.folder(project) / FILE
    path.write_text(old)
    assert Manifest.load(path).attempt == 1
