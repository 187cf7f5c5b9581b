"""Runs and recordings in a store that outlives the machine: a folder, fsspec's memory, and S3 by moto's server."""

import os
import shutil
import time
from pathlib import Path

import fsspec
import pytest
from helpers import lepton_here, write_notebook
from repairs import Everything
from watching import alert

from lepton_kit.errors import InputError
from lepton_kit.files import sha256_of
from lepton_kit.ops.watch.evidence import freeze_alert, is_here
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.manifest import find_run
from lepton_kit.runs.references import resolve
from lepton_kit.runs.runner import Request, run_notebook
from lepton_kit.runs.store import fetch, send


@pytest.fixture(params=["file", "memory", "s3"])
def store(request, tmp_path, monkeypatch):
    """The address of an empty store."""
    if request.param == "file":
        yield (tmp_path / "store").as_uri()
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").store.clear()
    else:
        s3fs = pytest.importorskip("s3fs", reason="S3 wants `pip install s3fs 'moto[s3]' flask flask-cors`")
        server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
        server.start()
        address = "http://{}:{}".format(*server.get_host_and_port())
        for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "ENDPOINT_URL": address}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(bucket := f"b{os.getpid()}-{time.time_ns()}")  # moto keeps them for its process
        yield f"s3://{bucket}/lepton"
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


def host(folder: Path, store: str) -> Path:
    """A project on a host of its own, with one notebook and the store."""
    folder.mkdir()
    (folder / "lepton.toml").write_text(f'[track]\nstore = "{store}"\n')
    write_notebook(folder / "notebooks" / "a.ipynb", ["lk.artifact('found.txt').write_text('42')"])
    return folder


def told(project: Path) -> tuple:
    """Run the notebook; return the run, and what was said of the store."""
    events = []
    run = run_notebook(Request(project / "notebooks" / "a.ipynb"), project, events.append)
    assert run.status == "succeeded"
    return run, [one.text for one in events if one.kind == "not_tracked"]


def test_a_run_made_on_one_host_is_found_by_its_id_on_another(store, tmp_path):
    here, there = host(tmp_path / "here", store), host(tmp_path / "there", store)
    run, said = told(here)
    assert said == []
    found = resolve(f"run:{run.run_id}/found.txt", there)
    assert found.run_id == run.run_id and found.path.read_text() == "42"
    assert find_run(run.run_id, there) == run
    assert sha256_of(run.folder(there)) == sha256_of(run.folder(here))
    assert [path.name for path in (there / "runs").iterdir()] == [run.run_id]


def test_a_watcher_has_the_recording_that_another_one_captured(store, tmp_path, caplog):
    here, there = host(tmp_path / "here", store), host(tmp_path / "there", store)
    for project in (here, there):
        with (project / "lepton.toml").open("a") as file:
            file.write('[services.goog]\nlogs = "log.txt"\n')
    (here / "log.txt").write_text("2026-11-25T03:00:00Z ERROR it burns\n")  # the other host has no such file
    queue, posted = Queue(here), Alert.model_validate(alert())
    queue.receive([posted], "webhook", Everything())
    incident = queue.incident(posted.incident)
    captured = freeze_alert(incident, read_settings(here), here)
    found = freeze_alert(incident, read_settings(there), there)
    assert found == there / captured.relative_to(here) and sha256_of(found) == sha256_of(captured)
    assert not [record for record in caplog.records if record.name == "lepton.watch"]


def test_what_was_sent_by_half_is_not_taken_for_whole_and_is_sent_again(tmp_path):
    store = (tmp_path / "store").as_uri()
    here, there = host(tmp_path / "here", store), host(tmp_path / "there", store)
    run, _ = told(here)
    sent = tmp_path / "store" / "runs" / run.run_id
    (sent / "artifacts" / "found.txt").write_text("4")
    (sent / "manifest.json").rename(sent / ".manifest.json")
    with pytest.raises(InputError, match="none of the 0 runs"):
        find_run(run.run_id, there)
    done = lepton_here("export", run.run_id, "--store", project=here)
    assert done.returncode == 0, done.stderr
    assert find_run(run.run_id, there) == run
    assert (run.folder(there) / "artifacts" / "found.txt").read_text() == "42"


def test_a_whole_folder_in_the_store_is_never_written_over(tmp_path):
    store = str(tmp_path / "store")
    for folder, said in (("first", "1"), ("second", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "incident.json").write_text(said)
    first = send(tmp_path / "first", "incidents/a", "incident.json", store)
    assert send(tmp_path / "first", "incidents/a", "incident.json", store) == first
    with pytest.raises(InputError, match=r"incidents/a: holds another incident\.json than .*second, and stays as it"):
        send(tmp_path / "second", "incidents/a", "incident.json", store)
    assert (tmp_path / "store" / "incidents" / "a" / "incident.json").read_text() == "1"


def test_a_store_that_takes_nothing_ends_no_run_and_says_what_was_kept(tmp_path):
    (tmp_path / "store").write_text("a file stands where the store should be")
    project = host(tmp_path / "here", (tmp_path / "store").as_uri())
    run, (said,) = told(project)
    assert f"store 'file://{tmp_path}/store': runs/{run.run_id} cannot be sent" in said
    assert f"it is kept whole in {run.folder(project)}" in said and "Not a directory" in said
    assert said.endswith(f"lepton export {run.run_id} --tracker store")
    (tmp_path / "store").unlink()
    assert lepton_here("export", "a", "--store", project=project).returncode == 0
    shutil.rmtree(run.folder(project))
    assert find_run(run.run_id, project) == run


def test_a_store_that_cannot_be_opened_is_named_without_its_password(tmp_path, monkeypatch, caplog):
    project = host(tmp_path / "here", "env:WHERE")
    monkeypatch.setenv("WHERE", "nosuch://me:hunter22@bucket/prefix")
    with pytest.raises(InputError, match=r"store 'nosuch://me:\*\*\*@bucket/prefix': .* cannot be fetched"):
        find_run("20261130T120000Z-a-123abc", project)
    assert not is_here(project / "incidents" / "a" / "recording", project)  # an incident does not wait for a store
    assert "nosuch://me:***@bucket/prefix" in caplog.text and "hunter22" not in caplog.text


def test_a_recording_is_sent_later_by_a_command(tmp_path):
    project = host(tmp_path / "here", (tmp_path / "store").as_uri())
    name = "incidents/one/recording-2"
    (project / name).mkdir(parents=True)
    (project / name / "incident.json").write_text("{}")
    done = lepton_here("export", "--incident", "one", "--store", project=project)
    assert done.stdout == f"file://{tmp_path}/store/{name}\n"
    assert (tmp_path / "store" / name / "incident.json").read_text() == "{}"
    refused = lepton_here("export", "--incident", "two", "--store", project=project)
    assert refused.returncode == 2 and "incident 'two': has no recording" in refused.stderr


def test_a_password_that_the_library_of_a_store_repeats_is_not_shown(tmp_path, monkeypatch):
    def refuses(*_):
        raise ValueError("Invalid bucket name 'me:hunter/22@b' or 'me:hunter%2F22@b'")

    (tmp_path / "incident.json").write_text("{}")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "exists", refuses)
    with pytest.raises(InputError) as refused:
        send(tmp_path, "incidents/a", "incident.json", "memory://me:hunter%2F22@b/x")
    assert "ValueError: Invalid bucket name 'me:***@b' or 'me:***@b'" in str(refused.value)
    assert "22" not in str(refused.value).replace(str(tmp_path), "")


def test_a_store_whose_files_would_lie_outside_of_the_folder_is_refused(tmp_path, monkeypatch):
    project = host(tmp_path / "here", "memory://evil")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/evil/runs/x/manifest.json", b"{}")
    monkeypatch.setattr(type(memory), "find", lambda *_: ["/evil/runs/x/../../../out"])
    with pytest.raises(InputError, match="outside of it"):
        fetch(project, "runs/x", "manifest.json")
    assert not (project / "runs" / "x").exists()
    memory.store.clear()
