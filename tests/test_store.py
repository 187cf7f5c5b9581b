"""The telemetry store: what is flushed stays, whatever happens then, and is found again fast."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zlib

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers import ROOT

from lepton_kit.errors import InputError
from lepton_kit.telemetry.prometheus import open_source
from lepton_kit.telemetry.selectors import SAMPLE_COLUMNS, labels_text
from lepton_kit.telemetry.store import Sample, Store

NOON = 1_760_011_200.0
WRITER = """
    import sys
    from pathlib import Path
    from lepton_kit.telemetry.store import Sample, Store
    store = Store(Path(sys.argv[1]))
    for number in range(int(sys.argv[2]), 10**9):
        labels = [{"part": str(part)} for part in range(20)]
        store.append([Sample("ticks_total", one, 1_760_000_000 + number * 0.5, number) for one in labels])
        store.flush()
        print(number, flush=True)
"""


def samples(count, start=NOON, step=15.0, **labels):
    return [Sample("requests_total", labels, start + step * number, float(number)) for number in range(count)]


def parquet(folder):
    return sorted(folder.glob("*.parquet"))


def writing(folder, first=0):
    words = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder), str(first)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_what_was_appended_is_found_by_selector_and_time_in_order(tmp_path):
    with Store(tmp_path) as store:
        store.append([*samples(10, route="/b", status="200"), *samples(10, route="/a", status="503")])
        store.append([Sample("up", {"job": "goog"}, NOON, 1.0)])
        for _ in range(2):  # from memory, then from the disk
            found = store.query('requests_total{status=~"2..|5.."}', NOON + 15, NOON + 45)
            assert list(found.columns) == list(SAMPLE_COLUMNS)
            assert str(found["time"].dtype) == "datetime64[ms, UTC]"
            assert found["labels"].tolist() == 3 * [labels_text({"route": "/a", "status": "503"})] + 3 * [
                labels_text({"route": "/b", "status": "200"})
            ]
            assert found["value"].tolist() == [1.0, 2.0, 3.0] * 2
            assert store.query('requests_total{route="/b"}', 0, 2e9)["value"].tolist() == list(range(10))
            store.flush()


def test_an_unknown_series_gives_an_empty_table_of_the_same_columns(tmp_path):
    empty = Store(tmp_path / "none").query("requests_total", 0, 2e9)
    assert list(empty.columns) == list(SAMPLE_COLUMNS)
    assert len(empty) == 0
    assert str(empty["time"].dtype) == "datetime64[ms, UTC]"
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="selector"):
        Store(tmp_path).query("rate(requests_total[5m])", 0, 1)


def test_what_a_query_returns_can_be_appended_to_another_store(tmp_path):
    with Store(tmp_path / "one") as one, Store(tmp_path / "two") as two:
        one.append([*samples(50, route="/a"), Sample("requests_total", {}, NOON, float("nan"))])
        found = one.query("requests_total", 0, 2e9)
        two.append(found)
        two.flush()
        pd.testing.assert_frame_equal(two.query("requests_total", 0, 2e9), found)
        with pytest.raises(InputError, match="no column 'labels'"):
            two.append(found.drop(columns="labels"))
        with pytest.raises(InputError, match="not a JSON object"):
            two.append(found.assign(labels="route=/a"))


def test_another_process_sees_what_is_flushed_while_one_writes(tmp_path):
    writer = writing(tmp_path)
    try:
        reader = Store(tmp_path)
        for _ in range(40):  # merging goes on meanwhile
            seen = int(writer.stdout.readline())
            found = reader.query('ticks_total{part="7"}', 0, 2e9)["value"].to_numpy()
            assert found[: seen + 1].tolist() == list(range(seen + 1))
            assert np.all(np.diff(found) == 1)
        with pytest.raises(InputError, match="another process writes"), Store(tmp_path) as second:
            second.append(samples(1))
            second.flush()
    finally:
        writer.kill()
        writer.communicate()


def test_a_killed_writer_loses_nothing_that_was_flushed_and_the_next_goes_on(tmp_path):
    following = 0
    for attempt in range(4):
        writer = writing(tmp_path, following)
        for _ in range(23):
            told = int(writer.stdout.readline())
        time.sleep(attempt * 0.004)  # in the middle of whatever it does then
        writer.send_signal(signal.SIGKILL)
        rest, trouble = writer.communicate()
        assert trouble == ""
        told = int(rest.split()[-1]) if rest.split() else told
        for _, one in Store(tmp_path).query("ticks_total", 0, 2e9).groupby("labels")["value"]:
            assert one.tolist()[: told + 1] == list(range(told + 1))
            assert len(one) <= told + 2  # a flush that was not told of any more
        following = told + 1
    with Store(tmp_path) as store:
        store.append(samples(1))
        store.flush()
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet", ".lock"}


def test_a_crash_in_the_middle_of_a_merge_leaves_no_sample_twice(tmp_path):
    with Store(tmp_path) as store:
        for number in range(9):
            store.append(samples(5, start=NOON + 75 * number))
            store.flush()
        parts = {path: path.read_bytes() for path in parquet(tmp_path)}
        store.append(samples(5, start=NOON + 75 * 9))
        store.flush()
        assert len(parquet(tmp_path)) == 1
        for path, content in parts.items():
            path.write_bytes(content)
    assert len(Store(tmp_path).query("requests_total", 0, 2e9)) == 50
    with Store(tmp_path) as store:
        store.append(samples(1, start=NOON + 86400))
        store.flush()
        assert len(store.query("requests_total", 0, 2e9)) == 51


def test_many_flushes_become_few_files_and_a_day_that_is_over_one(tmp_path):
    with Store(tmp_path) as store:
        for number in range(250):
            store.append([Sample("requests_total", {"part": str(part)}, NOON + 15 * number, 1.0) for part in (1, 2)])
            store.flush()
            assert len(parquet(tmp_path)) <= 9 * 3
        assert len(parquet(tmp_path)) == 2 + 5
        store.append(samples(1, start=NOON + 1.2 * 86400))
        store.flush()
        assert len(parquet(tmp_path)) == 2
        assert len(store.query("requests_total", 0, 2e9)) == 501
    held = [pq.read_table(path).to_pandas() for path in parquet(tmp_path)]
    assert [len(frame) for frame in held] == [500, 1]
    assert held[0]["labels"].astype(str).is_monotonic_increasing


def test_files_beyond_the_retention_are_removed(tmp_path):
    with Store(tmp_path, retention_days=2) as store:
        for day in range(5):
            store.append(samples(1, start=NOON + day * 86400))
            store.flush()
        times = store.query("requests_total", 0, 2e9)["time"]
    assert ((times - pd.Timestamp(NOON, unit="s", tz="UTC")).dt.days.tolist()) == [2, 3, 4]


def test_a_sample_of_the_far_future_does_not_remove_the_present(tmp_path):
    now = time.time()
    with Store(tmp_path, retention_days=2) as store:
        store.append(samples(1, start=now))
        store.append(samples(1, start=now + 400 * 86400))
        store.flush()
        assert len(store.query("requests_total", 0, now + 1000 * 86400)) == 2


@pytest.mark.parametrize("damage", ["half written", "emptied", "a bit turned", "not Parquet"])
def test_a_damaged_file_is_left_out_with_a_warning_and_nothing_else_is_lost(tmp_path, damage, caplog):
    with Store(tmp_path) as store:
        for day in range(3):
            store.append(samples(2000, start=NOON + day * 86400, step=1.001))
            store.flush()
    path = parquet(tmp_path)[1]
    content = path.read_bytes()
    turned = bytearray(content)
    turned[200] ^= 1
    new = {"half written": content[: len(content) // 2], "emptied": b"", "a bit turned": bytes(turned)}
    path.write_bytes(new.get(damage, b"hello" * 100))
    with caplog.at_level(logging.WARNING):
        store = Store(tmp_path)
        found = store.query("requests_total", 0, 2e9)
        store.query("requests_total", 0, 2e9)
    assert len(found) == 4000
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    assert path.exists()  # who reads changes nothing
    with Store(tmp_path) as writer:
        writer.append(samples(1))
        writer.flush()
        assert len(writer.query("requests_total", 0, 2e9)) == 4000
    assert path.with_suffix(".damaged").exists()
    assert not path.exists()


def test_a_turned_bit_anywhere_in_a_file_is_noticed(tmp_path):
    with Store(tmp_path) as store:
        store.append([one for part in "ab" for one in samples(100, part=part)])
    (path,) = parquet(tmp_path)
    content = path.read_bytes()
    for place in range(0, len(content), 37):
        turned = bytearray(content)
        turned[place] ^= 1 << place % 8
        path.write_bytes(turned)
        assert len(Store(tmp_path).query("requests_total", 0, 2e9)) == 0
    path.write_bytes(content)
    assert len(Store(tmp_path).query("requests_total", 0, 2e9)) == 200


def test_a_file_that_states_no_least_and_greatest_metric_is_read_all_the_same(tmp_path):
    with Store(tmp_path) as store:
        store.append([*samples(3), Sample("up", {}, NOON, 1.0)])
    (path,) = parquet(tmp_path)
    pq.write_table(pq.read_table(path), tmp_path / "bare", write_statistics=False)
    content = (tmp_path / "bare").read_bytes()
    (path.parent / f"{path.stem.rpartition('-')[0]}-{zlib.crc32(content)}.parquet").write_bytes(content)
    path.unlink()
    assert len(Store(tmp_path).query("requests_total", 0, 2e9)) == 3


def test_a_damaged_file_does_not_stop_a_merge(tmp_path, caplog):
    with Store(tmp_path) as store:
        for number in range(9):
            store.append(samples(5, start=NOON + 75 * number))
            store.flush()
        parquet(tmp_path)[4].write_bytes(b"PAR1")
        store.append(samples(5, start=NOON + 75 * 9))
        store.flush()
        assert len(store.query("requests_total", 0, 2e9)) == 45
    assert "is damaged" in caplog.text


def test_a_disk_that_takes_nothing_is_said_and_the_samples_are_kept(tmp_path):
    folder = tmp_path / "telemetry"
    folder.write_text("a file where the folder should be")
    store = Store(folder)
    store.append(samples(3))
    with pytest.raises(InputError, match="cannot be written"):
        store.flush()
    folder.unlink()
    store.flush()
    assert len(Store(folder).query("requests_total", 0, 2e9)) == 3


def test_of_two_samples_of_one_time_the_later_one_counts(tmp_path):
    with Store(tmp_path) as store:
        for value in (1.0, 2.0):
            store.append([Sample("up", {}, NOON, value)])
            store.flush()
        store.append([Sample("up", {}, NOON, 3.0)])
        assert store.query("up", 0, 2e9)["value"].tolist() == [3.0]
        with pytest.raises(InputError, match="after 1970"):
            store.append([Sample("up", {}, -1.0, 1.0)])


def test_threads_that_append_flush_and_query_at_once_lose_nothing(tmp_path):
    with Store(tmp_path) as store:

        def append(part):
            for number in range(40):
                store.append([Sample("requests_total", {"part": str(part)}, NOON + number, number)])
                store.flush()

        threads = [threading.Thread(target=append, args=(part,)) for part in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for _, one in store.query("requests_total", 0, 2e9).groupby("labels")["value"]:
                assert one.tolist() == list(range(len(one)))
        assert len(store.query("requests_total", 0, 2e9)) == 120


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_appended_in_whatever_order_is_found(tmp_path, seed):
    generator = np.random.default_rng(seed)
    expected = {}
    store = Store(tmp_path)
    for number in range(100):
        part, day = str(generator.integers(3)), int(generator.integers(max(1, number // 25) + 1))
        minutes = generator.integers(0, 1440, generator.integers(1, 20))
        taken = [Sample("a", {"part": part}, NOON + 60 * minute + 86400 * day, number) for minute in minutes.tolist()]
        expected |= {(part, one.time): one.value for one in taken}
        store.append(taken)
        if generator.random() < 0.7:
            store.flush()
        if generator.random() < 0.05:
            store.close()
            store = Store(tmp_path)
        if number % 10 == 0:
            found = {
                (json.loads(one.labels)["part"], one.time.timestamp()): one.value
                for one in store.query("a", 0, 2e9).itertuples()
            }
            assert found == expected
    store.close()
    assert len(parquet(tmp_path)) < 40


def test_an_hour_among_millions_of_samples_is_found_within_a_second_and_a_sample_takes_few_bytes(tmp_path):
    times, count = pd.date_range("2026-01-01", periods=5000, freq="15s", tz="UTC").as_unit("ms"), 200
    generator = np.random.default_rng(0)
    values = np.cumsum(generator.poisson(8, (count, len(times))), axis=1).astype(float)
    with Store(tmp_path) as store:
        for part in range(0, count, 50):
            labels = [labels_text({"route": "/v1/predict", "le": str(number)}) for number in range(part, part + 50)]
            frame = {
                "time": np.tile(times, 50),
                "metric": "requests_total",
                "labels": np.repeat(labels, len(times)),
                "value": values[part : part + 50].ravel(),
            }
            store.append(pd.DataFrame(frame))
        store.flush()
    assert sum(path.stat().st_size for path in parquet(tmp_path)) / values.size < 4
    end = times[4000].timestamp()
    started = time.perf_counter()
    found = Store(tmp_path).query('requests_total{le="77"}', end - 3600, end)
    assert time.perf_counter() - started < 1
    assert found["value"].tolist() == values[77, 4000 - 240 : 4001].tolist()


def test_a_source_is_a_folder_or_an_address(tmp_path):
    assert isinstance(open_source(tmp_path), Store)
    assert type(open_source("http://127.0.0.1:9090")).__name__ == "Prometheus"
    for wrong in ("no/such/folder", "ftp://127.0.0.1", tmp_path / "none"):
        with pytest.raises(InputError, match="neither a folder"):
            open_source(wrong)


def test_any_tool_can_read_a_file(tmp_path):
    with Store(tmp_path) as store:
        store.append(samples(3, route="/a"))
    held = pd.read_parquet(parquet(tmp_path)[0])
    assert list(held.columns) == list(SAMPLE_COLUMNS)
    assert json.loads(held["labels"][0]) == {"route": "/a"}
    assert held["value"].tolist() == [0.0, 1.0, 2.0]
