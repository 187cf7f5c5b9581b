"""A service whose disk is full goes on answering, and says so; once there is room it keeps its records again."""

import contextlib
import os
import subprocess

import pytest
from services import log_of, project_with_model, row, serving, wait_for

from lepton_kit.serving.control import newest_data, read_reports
from lepton_kit.serving.metrics import RESERVED_BYTES, reserve_files
from lepton_kit.serving.requestlog import Lines


@pytest.fixture
def small_disk(tmp_path):
    """Give a project whose services lie on a file system of 24 MiB of its own."""
    project = project_with_model(tmp_path / "project")
    disk = project / "services"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system of its own can be mounted by root only")
    yield project
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk):
    """Write until nothing more fits, and return the file."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return path


def test_a_full_disk_ends_no_worker_and_refuses_no_forecast(small_disk):
    with serving(small_disk, "--workers", "2") as service:
        assert all(file.stat().st_blocks * 512 >= RESERVED_BYTES for file in service.folder.glob("metrics/*.db"))
        known = service.predict().json()["request_id"]
        workers = wait_for(lambda: len(told := {one.pid for one in read_reports(service.folder)}) == 2 and told)
        filler = fill(small_disk / "services")
        asked = row()
        for number in range(200):
            assert service.predict(row=asked, as_of=1.7e9 + number).status_code == 200
        assert service.predict(row={}).status_code == 422
        said = wait_for(lambda: (answer := service.client.get("/readyz")).status_code == 503 and answer.json())
        assert "request log" in said["error"]
        feedback = {"request_id": known, "row": 0, "actual": 0.01}
        refused = service.client.post("/v1/feedback", json=feedback)
        assert refused.status_code == 503 and "not stored" in refused.json()["error"]
        metrics = service.client.get("/metrics")
        assert metrics.status_code == 200, metrics.text
        assert service.sample("lepton_predict_requests_total", outcome="answered") == 201
        assert {report.pid for report in read_reports(service.folder)} == workers
        filler.unlink()
        wait_for(lambda: service.predict(row=asked).status_code == 200 == service.client.get("/readyz").status_code)
        after = service.predict(row=asked).json()["request_id"]
        assert service.client.post("/v1/feedback", json=feedback).status_code == 202
        wait_for(lambda: after in set(log_of(service)["request_id"]))
        assert {report.pid for report in read_reports(service.folder)} == workers
        assert '"lost_before": ' in (service.folder / "service.jsonl").read_text()


def test_a_worker_that_finds_no_room_leaves_no_half_file_of_numbers(small_disk):
    """prometheus_client fails on an empty one, and `/metrics` of the workers that go on would be an error."""
    disk = small_disk / "services"
    fill(disk)
    with pytest.raises(OSError, match="No space left"):
        reserve_files(disk)
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_lines_that_the_disk_refuses_are_counted_and_a_torn_one_stands_alone(tmp_path, monkeypatch):
    lines = Lines(tmp_path / "log.jsonl", 1000)
    lines.append({"n": 1})
    whole = os.write
    answers = iter([lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")), lambda text: text[:4]])

    def full(file, text):
        return whole(file, next(answers)(text))

    monkeypatch.setattr(os, "write", full)
    lines.append({"n": 2})
    lines.append({"n": 3})
    monkeypatch.undo()
    lines.append({"n": 4})
    lines.append({"n": 5})
    assert (tmp_path / "log.jsonl").read_text().split("\n") == [
        '{"n": 1}', '{"n"', '{"n": 4, "lost_before": 2}', '{"n": 5}', ""
    ]  # fmt: skip


def test_the_newest_data_are_known_though_the_disk_takes_no_word_of_them(tmp_path, monkeypatch):
    assert newest_data(tmp_path, 1.7e9) == 1.7e9

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert newest_data(tmp_path, 1.8e9) == 1.8e9
    monkeypatch.undo()
    assert newest_data(tmp_path, 0.0) == 1.7e9
    (tmp_path / "newest").write_text("1.7e")
    assert newest_data(tmp_path, 1.6e9) == 1.6e9
