"""The prediction log: rolled over, bounded, and read as one."""

import contextlib
import sqlite3
import time

import pytest

from lepton_kit.errors import InputError
from lepton_kit.serving.requestlog import DELETED_AT_ONCE, Bounds, Entry, RequestLog, parquet_files, read_requests, roll

FORECAST = {"mean": 0.0, "std": 0.01, "lower": -0.02, "upper": 0.02, "prob_up": 0.5}


def entry(request_id, ago=0.0):
    return Entry(int((time.time() - ago) * 1000), request_id, 0, "v1", 200, 1.5, FORECAST, {"return_0": 0.01})


def read(log):
    return read_requests(log.folder, 0, time.time() + 1)


def test_rows_beyond_the_bound_are_rolled_into_parquet_and_read_together_with_new_ones(tmp_path):
    log = RequestLog(tmp_path)
    log.append([entry(f"old-{number}") for number in range(10)])
    log.flush()
    roll(tmp_path, Bounds(recent_rows=5))
    assert len(parquet_files(tmp_path)) == 1
    log.append([entry("new")])
    assert log.add_feedback("old-3", 0, 0.01, None, "")[0]
    log.close()
    held = read(log).set_index("request_id")
    assert list(held.index) == [f"old-{number}" for number in range(10)] + ["new"]
    assert held.loc["old-3", "actual"] == 0.01
    assert held.loc["old-3", "feature_return_0"] == 0.01
    assert held["actual"].notna().sum() == 1


def test_many_rows_leave_the_database_in_parts_and_none_is_lost_or_doubled(tmp_path):
    log = RequestLog(tmp_path)
    log.append([entry(f"row-{number}") for number in range(2 * DELETED_AT_ONCE + 1)])
    log.flush()
    with contextlib.closing(sqlite3.connect(tmp_path / "recent.sqlite")) as database:
        roll(tmp_path, Bounds(recent_rows=1))
        assert database.execute("SELECT count(*) FROM requests").fetchone() == (0,)
    log.close()
    assert len(read(log)) == read(log)["request_id"].nunique() == 2 * DELETED_AT_ONCE + 1


def test_old_rows_are_rolled_and_old_or_too_large_files_removed(tmp_path):
    log = RequestLog(tmp_path)
    for request_id, ago in (("ancient", 3 * 86400), ("old", 3600)):
        log.append([entry(request_id, ago)])
        log.flush()
        roll(tmp_path, Bounds(recent_seconds=60, days=2))
    assert list(read(log)["request_id"]) == ["old"]
    roll(tmp_path, Bounds(bytes=1))
    log.close()
    assert read(log).empty


def test_a_crash_between_the_file_and_the_database_counts_no_row_twice(tmp_path, monkeypatch):
    log = RequestLog(tmp_path)
    log.append([entry("a"), entry("b")])
    log.flush()
    import lepton_kit.serving.requestlog as module

    class CrashError(Exception):
        pass

    whole = module.pq.write_table

    def crash_after_writing(table, path, **more):
        whole(table, path, **more)
        path.rename(path.with_suffix(".parquet"))
        raise CrashError

    monkeypatch.setattr(module.pq, "write_table", crash_after_writing)
    with pytest.raises(CrashError):
        roll(tmp_path, Bounds(recent_rows=1))
    monkeypatch.undo()
    assert sorted(read(log)["request_id"]) == ["a", "b"]
    log.close()


def test_a_full_disk_is_told_and_the_service_goes_on(tmp_path, monkeypatch):
    log = RequestLog(tmp_path)

    def no_space(entries):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log, "_insert", no_space)
    log.append([entry("lost")])
    log.flush()
    assert "No space left" in log.failure
    monkeypatch.undo()
    log.append([entry("kept")])
    log.flush()
    assert log.failure is None
    log.close()
    assert list(read(log)["request_id"]) == ["kept"]


def test_a_folder_without_a_log_or_with_a_damaged_part_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no prediction log"):
        read_requests(tmp_path, 0, 1)
    RequestLog(tmp_path).close()
    (tmp_path / "0-9-1.parquet").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"0-9-1\.parquet"):
        read_requests(tmp_path, 0, 1)
