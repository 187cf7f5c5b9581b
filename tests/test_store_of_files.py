"""Runs, recordings and models in a store that outlives the machine: a folder, fsspec's memory, and moto's S3."""

import itertools
import json
import shutil
import socket
import sys
from pathlib import Path

import fsspec
import httpx
import pytest
from helpers import lepton_here, write_notebook
from repairs import Everything
from services import keep_model
from watching import alert

from lepton_kit.errors import InputError
from lepton_kit.files import sha256_of
from lepton_kit.models.registry import Registry
from lepton_kit.ops.stored_models import fetch_version, send_version
from lepton_kit.ops.watch.evidence import freeze_alert, is_here
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.manifest import find_run
from lepton_kit.runs.references import resolve
from lepton_kit.runs.runner import Request, run_notebook
from lepton_kit.runs.store import TakenError, fetch, send


@pytest.fixture(scope="module")
def s3_server():
    """The address of moto's S3."""
    pytest.importorskip("s3fs", reason="S3 wants `pip install 'lepton-kit[s3]' 'moto[s3]' flask flask-cors`")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """A client of S3, whose one bucket is called `kept` and empty, and what tells the kit of it."""
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    forget_connections()
    httpx.post(f"{s3_server}/moto-api/reset")
    client = pytest.importorskip("boto3").client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="kept")
    yield client
    httpx.post(f"{s3_server}/moto-api/reset-auth", content="inf")
    forget_connections()


def forget_connections():
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["file", "memory", "s3"])
def store(request, tmp_path):
    """The address of an empty store."""
    if request.param == "file":
        yield (tmp_path / "store").as_uri()
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").store.clear()
    else:
        request.getfixturevalue("bucket")
        yield "s3://kept/lepton"


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


def test_a_version_of_a_model_made_on_one_host_is_loaded_on_another(store, tmp_path):
    here, there = host(tmp_path / "here", store), host(tmp_path / "there", store)
    version = keep_model(here)
    assert send_version(here, "goog", version, store) == f"{store}/models/goog/{version}"
    fetch_version(there, "goog", version)
    assert sha256_of(there / "models" / "goog" / version) == sha256_of(here / "models" / "goog" / version)
    assert Registry(there / "models").load("goog", version).columns
    assert Registry(there / "models").current("goog") is None  # what is in use is each host's own


def test_a_version_that_is_registered_is_sent_and_another_host_serves_it(tmp_path):
    store = (tmp_path / "store").as_uri()
    here, there = host(tmp_path / "here", store), host(tmp_path / "there", store)
    made, served = tmp_path / "made", []
    keep_model(made)
    done = lepton_here("register", "goog", str(made / "models" / "goog" / "v1"), project=here)
    assert done.returncode == 0, done.stderr
    assert f"model goog: v1 is also in {store}/models/goog/v1" in done.stdout
    with pytest.MonkeyPatch.context() as here_alone:  # that a version which is here is served: tests/test_serving.py
        here_alone.setattr("lepton_kit.serving.supervisor.serve", lambda *given: served.append(given[4]))
        assert lepton_here("serve", "goog@v1", project=there).returncode == 0
    assert served == ["v1"] and Registry(there / "models").verify("goog", "v1").is_dir()


def test_a_version_that_could_not_be_sent_is_registered_and_sent_later(tmp_path):
    (tmp_path / "store").write_text("a file stands where the store should be")
    store = (tmp_path / "store").as_uri()
    here = host(tmp_path / "here", store)
    keep_model(tmp_path / "made")
    done = lepton_here("register", "goog", str(tmp_path / "made" / "models" / "goog" / "v1"), project=here)
    assert done.returncode == 0 and "model goog: v1 is stored in" in done.stdout
    assert f"models/goog/v1 cannot be sent; it is kept whole in {here}/models/goog/v1" in done.stderr
    (tmp_path / "store").unlink()
    assert "lepton export --model goog@v1 --store" in done.stderr
    assert lepton_here("export", "--model", "goog@v1", "--store", project=here).stdout == f"{store}/models/goog/v1\n"


def test_a_version_that_is_there_by_half_or_damaged_is_not_taken(tmp_path):
    store = (tmp_path / "store").as_uri()
    here, there = host(tmp_path / "here", store), host(tmp_path / "there", store)
    send_version(here, "goog", keep_model(here), store)
    sent = tmp_path / "store" / "models" / "goog" / "v1"
    (sent / "SHA256SUMS").rename(sent / ".SHA256SUMS")
    refused = lepton_here("serve", "goog@v1", project=there)
    assert refused.returncode == 2 and "no version 'v1'" in refused.stderr
    (sent / ".SHA256SUMS").rename(sent / "SHA256SUMS")
    (sent / "card.json").write_text("{}")
    refused = lepton_here("serve", "goog@v1", project=there)
    assert refused.returncode == 2 and "card.json: has been changed" in refused.stderr
    assert "models/goog/v1 is damaged there: card.json" in refused.stderr and ".fetched-" not in refused.stderr
    assert list((there / "models" / "goog").glob("*")) == []


def test_two_hosts_that_called_different_models_by_one_version_are_told_so(tmp_path):
    store = (tmp_path / "store").as_uri()
    here, there = host(tmp_path / "here", store), host(tmp_path / "there", store)
    send_version(here, "goog", keep_model(here), store)
    keep_model(tmp_path / "other", shift=1.0)
    done = lepton_here("register", "goog", str(tmp_path / "other" / "models" / "goog" / "v1"), project=there)
    assert done.returncode == 0 and "model goog: v1 is stored in" in done.stdout
    assert "v1 of this host is in its own registry alone" in done.stderr and "to send it later" not in done.stderr
    with pytest.raises(TakenError, match=r"models/goog/v1: holds another SHA256SUMS than .*there.*, and stays as it"):
        send_version(there, "goog", "v1", store)


def test_a_bucket_that_refuses_names_itself_and_what_was_kept(bucket, s3_server, tmp_path):
    project = host(tmp_path / "here", "s3://kept/lepton")
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::kept/*"}
    bucket.put_bucket_policy(Bucket="kept", Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    run, (said,) = told(project)
    wanted = f"store 's3://kept/lepton': runs/{run.run_id} cannot be sent; it is kept whole in {run.folder(project)}"
    assert said.startswith(f"{wanted} (") and "Forbidden" in said
    assert "Contents" not in bucket.list_objects_v2(Bucket="kept")
    bucket.delete_bucket_policy(Bucket="kept")
    httpx.post(f"{s3_server}/moto-api/reset-auth", content="0")  # from now on it wants keys that it knows
    with pytest.raises(InputError, match=r"store 's3://kept/lepton': runs/.* cannot be fetched \(.*Forbidden"):
        find_run("20261130T120000Z-a-123abc", project)
    with pytest.raises(InputError, match=r"store 's3://kept/lepton': models/goog/v1 cannot be fetched"):
        fetch_version(project, "goog", "v1")


def test_a_bucket_that_is_full_leaves_nothing_that_counts(bucket, tmp_path, monkeypatch):
    """No server that a test can have runs full: moto's takes one file here, then answers as Ceph's does."""
    from moto.s3.exceptions import S3ClientError
    from moto.s3.models import S3Backend

    taken, put = itertools.count(), S3Backend.put_object

    def has_room_for_one(*given, **more):
        if next(taken):
            raise S3ClientError("QuotaExceeded", "The bucket is over its quota.")
        return put(*given, **more)

    here, there = (host(tmp_path / name, "s3://kept/lepton") for name in ("here", "there"))
    with monkeypatch.context() as full:
        full.setattr(S3Backend, "put_object", has_room_for_one)
        run, (said,) = told(here)
    assert f"it is kept whole in {run.folder(here)}" in said and "The bucket is over its quota" in said
    (sent,) = bucket.list_objects_v2(Bucket="kept")["Contents"]
    assert not sent["Key"].endswith("manifest.json")
    with pytest.raises(InputError, match="none of the 0 runs"):
        find_run(run.run_id, there)
    assert lepton_here("export", run.run_id, "--store", project=here).returncode == 0
    assert find_run(run.run_id, there) == run


def test_an_address_that_nobody_answers_at_is_named_without_its_password(bucket, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    (tmp_path / "incident.json").write_text("{}")
    for user in ("", "me:hunter22@"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{user}127.0.0.1:{port}")
        forget_connections()
        with pytest.raises(InputError, match=r"store 's3://kept/x': a cannot be sent; it is kept whole in") as refused:
            send(tmp_path, "a", "incident.json", "s3://kept/x")
        assert "hunter22" not in str(refused.value)
        assert user or f"127.0.0.1:{port}" in str(refused.value)


def test_a_store_whose_package_is_missing_says_which_extra_has_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(InputError, match=r"s3fs is not installed: pip install 'lepton-kit\[s3\]'"):
        send(tmp_path, "a", "incident.json", "s3://kept/x")
