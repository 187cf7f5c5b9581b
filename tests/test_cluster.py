import json
import os
import signal
import sys

import psutil
import pytest
from clusters import cluster
from helpers import ROOT, lepton_here, write_notebook
from processes import Lepton
from services import wait_for

from lepton_kit.errors import InputError
from lepton_kit.files import sha256_of
from lepton_kit.runs import cluster as clusters
from lepton_kit.runs.ledger import Ledger
from lepton_kit.runs.manifest import Manifest, all_runs
from lepton_kit.runs.pool import run_all
from lepton_kit.runs.runner import DEFAULTS, Options, Request, execute, prepare

PARAMETERS = "from pathlib import Path\nnumber: int = 1\ntable: Path = 'data/table.csv'"
STORY = [
    "import beside_me; lk.record('double', beside_me.double(number))",
    "lk.artifact('left/table.csv').write_text(open(lk.input(table)).read())",
    "import os; lk.record('pid', os.getpid()); lk.record('project', str(lk.path('')), compare=False)",
]
LONG = [
    "import os, time; lk.artifact('pid').write_text(str(os.getpid())); print(os.getpid(), flush=True)",
    "time.sleep(600)",
]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def workers(running):
    """Two workers; what a test kills is there again for the next."""
    running.ensure(2)
    return running


@pytest.fixture
def story(project):
    (project / "data").mkdir()
    (project / "data/table.csv").write_text("a,b\n")
    (project / "notebooks/beside_me.py").write_text("def double(number):\n    return 2 * number\n")
    return write_notebook(project / "notebooks/story.ipynb", STORY, PARAMETERS)


def run_there(address, plans, project, tell=lambda event: None, options=DEFAULTS):
    with clusters.connected(address) as place:
        return run_all(plans, project, place.slots, tell, options, place)


def test_runs_on_workers_bring_their_folders_back_whole_without_a_shared_disk(workers, project, story):
    here = execute(prepare(Request(story), project), project)
    events = []
    plans = [prepare(Request(story, {"number": number}), project) for number in (1, 2, 3)]
    runs = run_there(workers.address, plans, project, events.append)
    assert [(run.status, run.results["double"].value) for run in runs] == [("succeeded", 2 * n) for n in (1, 2, 3)]
    for run in runs:
        folder = run.folder(project)
        assert Manifest.load(folder / "manifest.json") == run
        assert (folder / "artifacts/left/table.csv").read_text() == "a,b\n"
        assert run.executed_sha256 == sha256_of(folder / "notebook.ipynb")
        assert [artifact.file for artifact in run.artifacts] == [artifact.file for artifact in here.artifacts]
        assert {path.name for path in folder.iterdir()} == {path.name for path in here.folder(project).iterdir()}
        assert run.environment.worker in workers.workers
        assert run.results["project"].value.startswith(str(workers.folder))
    assert here.environment.worker is None and runs[0].key == here.key
    of_one = [event.kind for event in events if event.run_id == runs[0].run_id]
    assert [of_one[0], of_one[1], of_one[-1]] == ["run_started", "run_placed", "run_ended"]
    assert of_one.count("cell_ended") == len(runs[0].cells)
    assert not list(workers.folder.glob("worker-*/**/story.ipynb"))  # the workers keep nothing


def test_a_run_whose_worker_is_killed_is_repeated_once_on_another_and_says_so(workers, project):
    cells = [
        "import pathlib, time\nwhile not pathlib.Path(flag).exists():\n    time.sleep(0.05)",
        "lk.record('done', True)",
    ]
    path = write_notebook(project / "notebooks/n.ipynb", cells, f"flag: str = {str(project / 'flag')!r}")
    killed, events = [], []

    def tell(event):
        events.append(event)
        if event.kind == "cell_started" and not killed:
            (worker,) = {e.text.split()[-1] for e in events if e.kind == "run_placed"}
            killed.append(worker)
            workers.workers[worker].kill()
            (project / "flag").touch()

    (run,) = run_there(workers.address, [prepare(Request(path), project)], project, tell)
    assert (run.status, run.attempt, run.results["done"].value) == ("succeeded", 2, True)
    first = Manifest.load(project / "runs" / run.retry_of / "manifest.json")
    assert (first.status, first.error.name, first.attempt) == ("kernel_died", "WorkerLost", 1)
    assert killed[0] in first.error.message and run.environment.worker not in (None, *killed)
    assert ["another worker" in event.text for event in events if event.kind == "run_retried"] == [True]


@pytest.fixture
def long_run(workers, project):
    """A process that asks for a long run, what it prints to, and the run's kernel, which works."""
    write_notebook(project / "notebooks/long.ipynb", LONG)
    out, words = project / "out", ("run", "long", "--cluster", workers.address, "--events")
    out.touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")}
    process = Lepton(*words, project=project, environment=environment, out=out)
    try:
        lines = wait_for(lambda: [line for line in out.read_text().splitlines() if "cell_output" in line])
        yield process, out, psutil.Process(int(json.loads(lines[0])["text"]))
    finally:
        process.kill()


def test_a_run_that_is_interrupted_ends_on_its_worker_and_comes_back_as_far_as_it_got(long_run, project):
    process, out, kernel = long_run
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130, out.read_text()
    (run,) = all_runs(project)
    assert (run.status, [cell.status for cell in run.cells]) == ("cancelled", ["completed", "completed", "interrupted"])
    assert (run.folder(project) / "artifacts/pid").read_text() == str(kernel.pid)
    wait_for(lambda: not kernel.is_running())


def test_a_run_ends_on_its_worker_once_the_process_that_asked_for_it_is_killed(long_run, project):
    process, _, kernel = long_run
    process.kill()
    wait_for(lambda: not kernel.is_running())
    assert [run.status for run in all_runs(project)] == ["running"]  # until a repair tells the truth about it


def test_a_scheduler_that_is_lost_ends_its_runs_which_say_so(project, tmp_path_factory):
    path = write_notebook(project / "notebooks/n.ipynb", ["import time; time.sleep(600)"])
    with cluster(tmp_path_factory.mktemp("lost")) as alone:
        alone.ensure(1)

        def tell(event):
            if event.kind == "cell_started":
                alone.scheduler.kill()

        (run,) = run_there(alone.address, [prepare(Request(path), project)], project, tell)
    assert (run.status, run.error.name) == ("failed", "InputError")
    assert alone.address in run.error.message and "scheduler was lost" in run.error.message


def test_a_notebook_that_writes_outside_of_its_run_folder_fails_on_a_cluster(workers, project):
    path = write_notebook(
        project / "notebooks/n.ipynb", ["lk.path('models').mkdir(); lk.path('models/m').write_text('')"]
    )
    (run,) = run_there(workers.address, [prepare(Request(path), project)], project)
    assert run.status == "failed" and "models/m" in run.error.message and "--cluster none" in run.error.message


def test_the_key_of_a_run_is_claimed_by_who_asks_for_it(workers, project, story):
    plan = prepare(Request(story), project)
    (first,) = run_there(workers.address, [plan], project, options=Options(idempotency_key="once"))
    assert Ledger(project).claim("once").run_id == first.run_id
    assert execute(plan, project, options=Options(idempotency_key="once")) == first


def test_workers_with_another_version_of_the_kit_are_refused_before_anything_runs(workers, project, monkeypatch):
    monkeypatch.setattr(clusters, "__version__", "9.9")
    with pytest.raises(InputError, match=r"worker tcp://\S+ has lepton-kit 0\.\S+ .*here is 9\.9.*nothing was run"):
        run_there(workers.address, [], project)


def test_a_worker_that_does_not_answer_is_named_before_anything_runs(workers, monkeypatch):
    monkeypatch.setattr(clusters, "CONNECT_S", 2)
    frozen, process = next(iter(workers.workers.items()))
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(InputError, match=rf"no answer within 2 s from .*{frozen}.*nothing was run"):
            clusters.Cluster(workers.client, workers.address)
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_scheduler_that_cannot_be_reached_is_named_without_its_password(project, story, monkeypatch):
    monkeypatch.setattr(clusters, "CONNECT_S", 0.5)
    (project / "lepton.toml").write_text('[cluster]\naddress = "tcp://me:hunter2@127.0.0.1:1"\n')
    refused = lepton_here("run", str(story), project=project)
    assert refused.returncode == 2 and "hunter2" not in refused.stderr
    assert "tcp://me:***@127.0.0.1:1" in refused.stderr and "nothing was run" in refused.stderr
    assert not all_runs(project)
    assert lepton_here("run", str(story), "--cluster", "none", project=project).returncode == 0


def test_without_its_extra_a_cluster_says_what_to_install(project, story, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused = lepton_here("run", str(story), "--cluster", "tcp://127.0.0.1:1", project=project)
    assert refused.returncode == 2 and "pip install 'lepton-kit[cluster]'" in refused.stderr


def test_what_cannot_travel_to_a_cluster_is_refused_by_name(workers, project, monkeypatch):
    monkeypatch.setenv("API_KEY", "hunter2!")
    secret = write_notebook(project / "notebooks/s.ipynb", [], "api_key: lk.Secret = 'env:API_KEY'")
    refused = lepton_here("run", str(secret), "--cluster", workers.address, project=project, API_KEY="hunter2!")
    assert refused.returncode == 2 and "parameter 'api_key' is a secret" in refused.stderr
    assert not all_runs(project)


def test_the_simulation_of_many_runs_agrees_with_what_can_be_counted_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.delitem(sys.modules, "cluster", raising=False)
    simulated = __import__("cluster").simulated
    assert simulated(0.0, 0.0, 10.0, 100, 5) == (200.0, 1.0)  # only the workers
    assert simulated(0.0, 1.0, 1.0, 100, 50)[0] == 101.0  # the scheduler, and the last run
    assert simulated(1.0, 0.0, 1.0, 100, 50)[0] == 100.0  # who asks is never idle
    assert simulated(1.0, 2.0, 3.0, 1, 1) == (6.0, 0.5)  # one run meets each once
