"""A service's requests, labels and log are read from where they are, and what is wrong with them is named."""

import json
import sqlite3
from functools import partial

import fsspec
import numpy as np
import pandas as pd
import pytest
from helpers import Files, listening

from lepton_kit.telemetry import databases
from lepton_kit.telemetry.databases import Window
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.logs import read_logs
from lepton_kit.telemetry.readers import canonical, raw_requests, read_deployments, read_requests, read_topology

START = pd.Timestamp("2026-11-20T10:00Z")
WINDOW = (START.timestamp(), START.timestamp() + 3600)
COLUMNS = {
    "timestamp": "ts", "id": "id", "version": "model", "features": "inputs.*", "prediction_probas": "p",
    "target": "label", "positive": "yes",
}  # fmt: skip


BEFORE = START - pd.Timedelta("1h")


def entries(number=240, step="1min", start=BEFORE):
    """Return a row a minute, an hour of which lies in the window."""
    times = pd.date_range(start, periods=number, freq=step)
    return [
        {
            "ts": time.isoformat(), "id": f"r{n}", "model": "v3",
            "inputs": {"age": 20.0 + n, "city": "Bonn" if n % 2 else "Köln"},
            "p": n / 1000, "label": "yes" if n % 3 else "no",
        }
        for n, time in enumerate(times)
    ]  # fmt: skip


def declared(**given):
    return Declaration.model_validate({"task": "classification_binary", "columns": COLUMNS, **given})


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(project, **given):
    return read_requests(declared(**given), project, *WINDOW)


def in_jsonl(project):
    (project / "log").mkdir()
    rows = entries()
    (project / "log" / "a.jsonl").write_text(lines(rows[:100]))
    (project / "log" / "b.jsonl").write_text(lines(rows[100:]))
    return {"path": "log/*.jsonl"}


def in_csv(project):
    rows = [row | {"inputs": json.dumps(row["inputs"])} for row in entries()]
    pd.DataFrame(rows).to_csv(project / "log.csv", index=False)
    return "log.csv"


def in_parquet(project):
    table = pd.DataFrame(entries())
    table.assign(ts=pd.to_datetime(table["ts"], utc=True)).to_parquet(project / "log.parquet")
    return {"path": "log.parquet"}


def in_sqlite(project):
    with sqlite3.connect(project / "log.db") as database:
        rows = [row | {"inputs": json.dumps(row["inputs"])} for row in entries()]
        table = pd.DataFrame(rows).assign(
            ms=lambda held: pd.to_datetime(held["ts"]).astype("datetime64[ms, UTC]").astype("int64")
        )
        table.to_sql("requests", database, index=False)
    return {"sql": "sqlite:///log.db", "query": "SELECT * FROM requests WHERE ms BETWEEN :start_ms AND :end_ms"}


def in_memory(project):
    with fsspec.open("memory://logs/a.jsonl", "w") as file:
        file.write(lines(entries()))
    return {"path": "memory://logs/*.jsonl"}


@pytest.mark.parametrize("place", [in_jsonl, in_csv, in_parquet, in_sqlite, in_memory])
def test_a_window_reads_alike_from_wherever_it_is(place, tmp_path):
    found = read(tmp_path, requests=place(tmp_path))
    table = found.table
    assert found.problems == () and len(table) == 61
    assert table["time"].iloc[0] == START and table["request_id"].iloc[0] == "r60" and set(table["version"]) == {"v3"}
    assert table["feature_age"].tolist() == [80.0 + n for n in range(61)]
    assert set(table["feature_city"]) == {"Bonn", "Köln"}
    assert table["actual"].iloc[:3].tolist() == [0.0, 1.0, 1.0] and table["proba"].iloc[1] == pytest.approx(0.061)
    assert table[["status", "latency_ms"]].isna().all().all()


@pytest.fixture
def server(tmp_path):
    with listening(partial(Files, directory=tmp_path)) as address:
        yield address


def test_a_file_behind_an_address_is_read(server, tmp_path):
    in_parquet(tmp_path)
    assert len(read(tmp_path, requests=f"{server}/log.parquet").table) == 61
    (problem,) = read(tmp_path, requests=f"{server}/gone.parquet").problems
    assert "gone.parquet: cannot be read" in problem and "404" in problem


def test_late_labels_are_joined_by_their_key_and_the_last_one_counts(tmp_path):
    columns = {name: value for name, value in COLUMNS.items() if name != "target"}
    labels = pd.DataFrame(
        {
            "request": ["r60", "r61", "r61", "r999"],
            "truth": ["yes", "no", "yes", "no"],
            "at": ["2026-11-21", "2026-11-23", "2026-11-22", "2026-11-21"],
        }
    )
    labels.rename(columns={"request": "id"}).to_parquet(tmp_path / "labels.parquet")
    found = read(
        tmp_path, requests=in_jsonl(tmp_path), columns=columns,
        labels={"path": "labels.parquet", "key": "id", "target": "truth", "timestamp": "at"},
    )  # fmt: skip
    assert found.table["actual"].iloc[:2].tolist() == [1.0, 0.0] and found.table["actual"].notna().sum() == 2
    assert found.table["actual_time"].iloc[1] == pd.Timestamp("2026-11-23", tz="UTC")
    assert found.problems == ("labels: 1 keys have more than one target; the last one counts",)


def test_a_wrong_column_is_named_with_those_that_are_there_and_the_rest_is_read(tmp_path):
    found = read(
        tmp_path, requests=in_jsonl(tmp_path), columns=COLUMNS | {"target": "outcome", "prediction_probas": "score"}
    )
    assert len(found.table) == 61 and found.table["proba"].isna().all()
    assert len(found.problems) == 2
    assert "no column 'score' (columns.prediction_probas); there are ts, id, model" in found.problems[0]
    assert "no column 'outcome' (columns.target)" in found.problems[1]


@pytest.mark.parametrize("place", [in_jsonl, in_csv, in_parquet, in_sqlite])
def test_a_wrong_column_of_the_time_is_named(place, tmp_path):
    found = read(tmp_path, requests=place(tmp_path), columns=COLUMNS | {"timestamp": "when"})
    assert found.table.empty
    assert "'when' (columns.timestamp)" in found.problems[0] and "there are" in found.problems[0]


def test_damaged_lines_and_a_truncated_last_one_are_counted_and_left_out(tmp_path):
    (tmp_path / "log.jsonl").write_text("not JSON\n[1]\n" + lines(entries()) + '{"ts": "2026-11-20T10:3')
    found = read(tmp_path, requests="log.jsonl")
    assert len(found.table) == 61 and found.problems == ("requests: 3 lines are damaged, and left out",)


def test_a_truncated_row_of_a_csv_is_left_out(tmp_path):
    in_csv(tmp_path)
    text = (tmp_path / "log.csv").read_text()
    (tmp_path / "log.csv").write_text(text + "2026-11-20T10:30:00Z,r9\n")
    found = read(tmp_path, requests="log.csv")
    assert len(found.table) == 61 and found.problems == ("requests: 1 lines are damaged, and left out",)


def test_times_without_a_zone_are_of_the_declared_one(tmp_path):
    rows = [row | {"ts": row["ts"].removesuffix("+00:00")} for row in entries(start=pd.Timestamp("2026-11-20T10:00Z"))]
    (tmp_path / "log.jsonl").write_text(lines(rows))
    assert len(read(tmp_path, requests={"path": "log.jsonl"}).table) == 61
    berlin = read(tmp_path, requests={"path": "log.jsonl", "timezone": "Europe/Berlin"}).table
    assert berlin["request_id"].iloc[0] == "r60" and berlin["time"].iloc[0] == START


def test_a_window_without_a_row_says_from_when_the_rows_are(tmp_path):
    (tmp_path / "log.jsonl").write_text(lines(entries(3, start=START - pd.Timedelta("5h"))))
    found = read(tmp_path, requests="log.jsonl")
    assert (
        found.table.empty and "2026-11-20T05:00:00Z to 2026-11-20T05:02:00Z: is `timezone` right?" in found.problems[0]
    )


def test_rows_from_the_future_say_that_the_clock_or_the_zone_is_wrong(tmp_path):
    soon = pd.Timestamp.now("UTC").floor("s") + pd.Timedelta("1h")
    (tmp_path / "log.jsonl").write_text(lines(entries() + entries(5, start=soon)))
    found = read(tmp_path, requests="log.jsonl")
    assert len(found.table) == 61 and "5 rows are from the future" in found.problems[0]


def test_rows_written_twice_count_once_and_shared_ids_are_named(tmp_path):
    rows = entries()
    shared = rows[70] | {"id": "r71"}
    (tmp_path / "log.jsonl").write_text(lines([*rows, rows[65], rows[66], shared]))
    found = read(tmp_path, requests="log.jsonl")
    assert len(found.table) == 62
    assert "2 rows repeat" in found.problems[0] and "1 ids belong to more than one request" in found.problems[1]


def test_values_that_cannot_be_what_their_role_says_are_missing_and_counted(tmp_path):
    rows = entries()
    rows[60] |= {"p": 1.5}
    rows[61] |= {"p": "high", "inputs": {"age": "old"}}
    (tmp_path / "log.jsonl").write_text(lines(rows))
    found = read(tmp_path, requests="log.jsonl")
    assert found.table["proba"].iloc[:2].isna().all() and np.isnan(found.table["feature_age"].iloc[1])
    assert found.problems == (
        "requests: 1 of 61 values of 'inputs.age' (columns.features) are no numbers",
        "requests: 2 of 61 values of 'p' (columns.prediction_probas) are no numbers from 0 to 1",
    )


def test_a_target_without_the_positive_class_is_named(tmp_path):
    found = read(tmp_path, requests=in_jsonl(tmp_path), columns=COLUMNS | {"positive": 1})
    assert "no row's target is '1' (columns.positive); there are 'no', 'yes'" in " ".join(found.problems)


def test_text_enters_as_descriptors_and_never_raw(tmp_path):
    rows = [
        row | {"inputs": {"note": "the cat is in the garden" if n % 2 else "xylophone"}}
        for n, row in enumerate(entries())
    ]
    (tmp_path / "log.jsonl").write_text(lines(rows))
    project = declared(requests="log.jsonl", columns=COLUMNS | {"text": "note"})
    raw = raw_requests(project, tmp_path, *WINDOW).table
    table = canonical(raw, project, {"note": pd.Series(["the cat is in the house"])}).table
    assert {name for name in table if name.startswith("feature_")} == {
        f"feature_note_{what}" for what in ("length", "language", "tokens", "out_of_vocabulary")
    }
    assert table["feature_note_out_of_vocabulary"].iloc[:2].tolist() == [1.0, pytest.approx(1 / 6)]
    assert "garden" not in table.to_csv()


def test_of_too_many_rows_every_nth_is_kept_and_the_total_is_known(tmp_path):
    (tmp_path / "log.jsonl").write_text(lines(entries(10_000, "100ms", START)))
    found = raw_requests(declared(requests="log.jsonl"), tmp_path, *WINDOW, most=1000)
    assert found.total == 10_000 and 500 <= len(found.table) <= 1000 and found.step * len(found.table) >= 10_000
    assert canonical(found.table, declared(requests="log.jsonl")).table["time"].diff().dropna().nunique() == 1


@pytest.mark.parametrize("is_ordered", [True, False])
def test_of_a_large_log_only_the_part_of_the_window_is_read_where_it_is_in_order(is_ordered, tmp_path, monkeypatch):
    rows = entries(5000, "10s", START - pd.Timedelta("6h"))
    rows = rows if is_ordered else rows[2500:] + rows[:2500]
    (tmp_path / "log.jsonl").write_text(lines(rows))
    whole = read(tmp_path, requests="log.jsonl")
    monkeypatch.setattr(databases, "LARGE", 1000)
    part = databases.part_of(tmp_path / "log.jsonl", "ts", "UTC", Window(*WINDOW), tmp_path)
    assert (part.stat().st_size < 0.2 * (tmp_path / "log.jsonl").stat().st_size) == is_ordered
    assert len(whole.table) == 361
    pd.testing.assert_frame_equal(read(tmp_path, requests="log.jsonl").table, whole.table)


@pytest.mark.parametrize(
    ("task", "columns", "row", "made"),
    [
        ("classification_multiclass", {"prediction_probas": "p.*", "target": "y"},
         {"p": {"a": 0.7, "b": 0.3}, "y": "b"}, {"label": "a", "proba_a": 0.7, "proba_b": 0.3, "actual": "b"}),
        ("regression", {"prediction": "p", "target": "y"}, {"p": 3, "y": 4.5}, {"prediction": 3.0, "actual": 4.5}),
        ("text", {"prediction": "answer.*"}, {"answer": {"tokens": 9, "language": "de", "model": "x"}},
         {"tokens": 9, "language": "de"}),
        ("interval_forecast", {"lower": "l", "upper": "u", "target": "y"}, {"l": 1, "u": 2, "y": 1.5},
         {"lower": 1.0, "upper": 2.0, "actual": 1.5}),
        ("ranking", {"prediction": "items", "target": "chosen"}, {"items": ["a", "b"], "chosen": "b"},
         {"prediction": ["a", "b"], "actual": "b"}),
        ("text", {"prediction": "answer", "rating": "stars"}, {"answer": "It is in the house.", "stars": 4},
         {"tokens": 5.0, "language": "en", "length": 19.0, "rating": 4.0, "actual": 4.0}),
    ],
)  # fmt: skip
def test_each_task_has_its_own_columns_of_a_prediction(task, columns, row, made, tmp_path):
    (tmp_path / "log.jsonl").write_text(lines([row | {"timestamp": START.isoformat()}]))
    given = Declaration.model_validate({"task": task, "columns": columns, "requests": "log.jsonl"})
    found = read_requests(given, tmp_path, *WINDOW)
    assert found.problems == ()
    assert {name: found.table[name].iloc[0] for name in made} == made


def test_a_log_is_json_lines_or_plain_text(tmp_path):
    (tmp_path / "a.log").write_text(
        "2026-11-20 10:00:01,250 WARNING disk is slow\nTraceback\n[2026-11-20T10:00:03Z] INFO started\n"
        "2026-11-20 12:00:00 ERROR later\n"
    )
    (tmp_path / "b.log").write_text(
        json.dumps({"ts": "2026-11-20T10:00:02Z", "severity": "warn", "msg": "slow\x1b[2J", "user": 7}) + "\n"
        + json.dumps({"time": "2026-11-20T10:00:04Z", "level": "INFO", "message": "ok", "fields": {"ms": 3}}) + "\n"
    )  # fmt: skip
    found = read_logs(Declaration(logs="*.log"), tmp_path, *WINDOW)
    assert found.table["message"].tolist() == ["disk is slow", "slow\\x1b[2J", "started", "ok"]
    assert found.table["level"].tolist() == ["WARNING", "WARNING", "INFO", "INFO"]
    assert found.table["time"].iloc[0] == pd.Timestamp("2026-11-20T10:00:01.25Z")
    assert [json.loads(text) for text in found.table["fields"]] == [{}, {"user": 7}, {}, {"ms": 3}]
    assert found.problems == ("logs: 1 lines are damaged, and left out",)


def test_of_too_many_log_lines_those_above_info_stay(tmp_path):
    made = [f"2026-11-20T10:00:{n % 60:02d}Z {'ERROR bad' if n % 100 == 0 else 'INFO fine'}\n" for n in range(1000)]
    (tmp_path / "a.log").write_text("".join(made))
    found = read_logs(Declaration(logs="a.log"), tmp_path, *WINDOW, most=100)
    assert (found.table["level"] == "ERROR").sum() == 10 and len(found.table) < 200 and found.total == 1000


def test_deployments_come_from_a_file_or_the_label_of_a_metric(tmp_path):
    kept = [{"time": f"2026-11-20T0{n}:00:00Z", "version": v} for n, v in enumerate(["v1", "v2"])]
    (tmp_path / "deployments.jsonl").write_text(lines([*kept, {"version": 3}]))
    found, problems = read_deployments(Declaration(deployments="deployments.jsonl"), tmp_path, None, {}, *WINDOW)
    assert [version for _, version, _ in found] == ["v1", "v2"] and problems == [
        "deployments: 1 entries have no time or version, and are left out"
    ]

    class Source:
        def query(self, selector, start, end):
            assert selector == 'model_info{job="scoring"}'
            times = pd.to_datetime(["2026-11-20T10:00Z", "2026-11-20T10:30Z", "2026-11-20T10:31Z"])
            labels = ['{"version":"a"}', '{"version":"b"}', '{"version":"b"}']
            return pd.DataFrame({"time": times, "metric": "model_info", "labels": labels, "value": 1.0})

    given = Declaration.model_validate({"deployments": {"metric": "model_info", "label": "version"}})
    found, problems = read_deployments(given, tmp_path, Source(), {"job": "scoring"}, *WINDOW)
    assert [(time.minute, version) for time, version, _ in found] == [(30, "b")] and problems == []


def test_a_topology_is_a_table_of_callers_and_callees(tmp_path):
    (tmp_path / "topology.csv").write_text("caller,callee,note\ngate,model,x\n")
    assert read_topology(Declaration(topology="topology.csv"), tmp_path).table.to_dict("records") == [
        {"caller": "gate", "callee": "model"}
    ]


def test_the_rows_of_a_query_come_in_large_pieces(tmp_path, monkeypatch):
    with sqlite3.connect(tmp_path / "log.db") as database:
        database.execute("CREATE TABLE requests (ts REAL, p REAL)")
        database.executemany("INSERT INTO requests VALUES (?, ?)", [(WINDOW[0] + n / 10, 0.5) for n in range(25_000)])
    pieces, utc = [], databases.utc
    monkeypatch.setattr(databases, "utc", lambda times, zone: pieces.append(len(times)) or utc(times, zone))
    place = {"sql": "sqlite:///log.db", "query": "SELECT * FROM requests"}
    found = read(tmp_path, requests=place, columns={"timestamp": "ts", "prediction_probas": "p"})
    assert (pieces, len(found.table)) == ([10_000, 10_000, 5_000], 25_000)
