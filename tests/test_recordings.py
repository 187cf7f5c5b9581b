import json
import shutil
from dataclasses import replace

import incident_variants as variants
import pandas as pd
import pytest
from helpers import truth_of

from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import FORMAT, printable, read_recording, write_recording
from lepton_kit.telemetry.signals import Signal


@pytest.fixture
def folder(tmp_path):
    """A copy of the shipped recording, to be damaged."""
    return shutil.copytree(variants.SHIPPED, tmp_path / "incident")


def edit_incident(folder, **changes):
    path = folder / "incident.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_shipped_recording_is_whole_and_small():
    recording = read_recording(variants.SHIPPED)
    assert recording.absent == ("topology.csv",)
    assert len(recording.requests) == 450
    assert set(recording.models) == {"v1", "v2"}
    assert set(recording.features(recording.requests)) == set(recording.reference) - {"actual"}
    assert sum(path.stat().st_size for path in variants.SHIPPED.rglob("*") if path.is_file()) < 500_000


def test_a_recording_written_and_read_again_is_the_same(tmp_path):
    recording = read_recording(variants.SHIPPED)
    again = read_recording(write_recording(recording, tmp_path / "copy", truth={"cause": "none"}))
    assert again.incident == recording.incident
    for name in ("requests", "metrics", "reference", "logs"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(recording, name))
    assert truth_of(tmp_path / "copy") == {"cause": "none"}
    assert truth_of(tmp_path) == {}


def test_a_recording_keeps_the_signals_that_it_was_captured_by(tmp_path):
    former = read_recording(variants.SHIPPED)
    assert former.signals["queue_length"].selector == "lepton_queue_requests"
    signals = {"queue_length": Signal(selector='waiting{job="x"}', scale=2)}
    incident = former.incident.model_copy(update={"format": FORMAT})
    written = write_recording(replace(former, incident=incident, signals=signals), tmp_path / "new")
    assert read_recording(written).signals == signals
    (written / "signals.json").write_text('{"queue_length": {"selector": "rate(x[5m])"}}', encoding="utf-8")
    broken = read_recording(written)
    assert broken.signals["queue_length"].selector == "lepton_queue_requests"  # the declaration's
    assert "signals.json: signals: " in broken.problems[0]


def test_writing_replaces_what_was_there_and_leaves_nothing_else(tmp_path):
    recording = read_recording(variants.SHIPPED)
    write_recording(recording, tmp_path / "copy", truth={"cause": "none"})
    write_recording(recording, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert not (tmp_path / "copy" / "truth.json").exists()


def test_a_recording_that_cannot_be_written_leaves_the_old_one(tmp_path):
    recording = read_recording(variants.SHIPPED)
    write_recording(recording, tmp_path / "copy")
    with pytest.raises(FileNotFoundError):
        write_recording(replace(recording, models={"v1": tmp_path / "no such model"}), tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert read_recording(tmp_path / "copy").incident == recording.incident


@pytest.mark.parametrize("name", ["requests.parquet", "metrics.parquet", "reference.parquet", "logs.jsonl"])
def test_an_absent_file_is_named_and_its_table_is_empty(folder, name):
    (folder / name).unlink()
    recording = read_recording(folder)
    assert name in recording.absent
    assert getattr(recording, name.partition(".")[0]).empty


def test_an_absent_model_is_named(folder):
    shutil.rmtree(folder / "models" / "v1")
    recording = read_recording(folder)
    assert "models/v1" in recording.absent
    assert set(recording.models) == {"v2"}


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_recording(tmp_path / "nothing")


def test_a_folder_without_incident_json_is_refused(folder):
    (folder / "incident.json").unlink()
    with pytest.raises(InputError, match=r"incident\.json: no such file"):
        read_recording(folder)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00\xff", "[" * 100_000])
def test_an_incident_that_is_not_a_json_object_is_refused(folder, content):
    (folder / "incident.json").write_text(content)
    with pytest.raises(InputError, match=r"incident\.json"):
        read_recording(folder)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"format": "lepton-recording/9"}, "format"),
        ({"window": {"start": "2008-01-01", "end": "soon"}}, r"window\.start"),
        ({"window": {"start": "2008-02-01T00:00Z", "end": "2008-01-01T00:00Z"}}, r"window\.end"),
        ({"versions": {"current": "../../etc"}}, r"versions\.current"),
        ({"service": 7}, "service"),
    ],
)
def test_a_wrong_value_in_the_incident_is_named_with_its_place(folder, changes, place):
    edit_incident(folder, **changes)
    with pytest.raises(InputError, match=place):
        read_recording(folder)


@pytest.mark.parametrize("size", [0, 4, 1000])
@pytest.mark.parametrize("name", ["requests.parquet", "metrics.parquet", "reference.parquet"])
def test_a_truncated_parquet_file_is_left_out_and_named(folder, name, size):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:size])
    recording = read_recording(folder)
    assert name in recording.absent
    assert any(problem.startswith(f"{name}: not readable as Parquet") for problem in recording.problems)
    assert getattr(recording, name.partition(".")[0]).empty


def test_a_column_that_is_not_there_is_empty_and_named(folder):
    path = folder / "requests.parquet"
    pd.read_parquet(path).drop(columns=["upper", "request_id"]).to_parquet(path)
    recording = read_recording(folder)
    assert any("lacks column request_id, upper" in problem for problem in recording.problems)
    assert recording.requests["upper"].isna().all()
    assert recording.requests["request_id"].is_unique


@pytest.mark.parametrize("name", ["requests.parquet", "metrics.parquet"])
def test_a_table_without_usable_times_is_left_out_and_named(folder, name):
    path = folder / name
    pd.read_parquet(path).assign(time="today").to_parquet(path)
    recording = read_recording(folder)
    assert name in recording.absent
    assert any("column time holds" in problem for problem in recording.problems)


@pytest.mark.parametrize(("column", "value"), [("latency_ms", "fast"), ("feature_return_0", "a lot")])
def test_values_that_are_no_numbers_are_missing_and_counted(folder, column, value):
    path = folder / "requests.parquet"
    table = pd.read_parquet(path).astype({column: "object"})
    table.loc[:9, column] = value
    table.assign(**{column: table[column].astype(str)}).to_parquet(path)
    recording = read_recording(folder)
    assert recording.requests[column].isna().sum() == 10
    assert any(f"column {column} holds" in problem and "10 of 450" in problem for problem in recording.problems)


def test_rows_without_a_time_and_labels_that_are_no_json_are_left_out_and_counted(folder):
    path = folder / "metrics.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "time"], table.loc[1, "labels"] = pd.NaT, "<b>"
    table.to_parquet(path)
    recording = read_recording(folder)
    assert len(recording.metrics) == len(table) - 2
    assert any("1 of" in problem and "no time" in problem for problem in recording.problems)
    assert any("no JSON object" in problem for problem in recording.problems)


def test_a_clock_that_is_wrong_is_named(folder):
    path = folder / "metrics.parquet"
    table = pd.read_parquet(path)
    table.assign(time=table["time"] + pd.Timedelta(days=4000)).to_parquet(path)
    (problem,) = read_recording(folder).problems
    assert problem.startswith("metrics.parquet:") and "clock" in problem


def test_requests_come_in_order_of_time(folder):
    path = folder / "requests.parquet"
    pd.read_parquet(path).sample(frac=1, random_state=1).to_parquet(path)
    assert read_recording(folder).requests["time"].is_monotonic_increasing


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '{"time": "2008-01-01T00:00Z"}',
        '{"time": "soon", "level": "INFO", "message": "x"}',
        '{"time": "2008',
    ],
)
def test_a_broken_log_line_is_left_out_and_its_number_named(folder, line):
    held = len(read_recording(folder).logs)
    with (folder / "logs.jsonl").open("a") as file:
        file.write(line + "\n")
    lines = len((folder / "logs.jsonl").read_text().splitlines())
    recording = read_recording(folder)
    assert len(recording.logs) == held
    assert any(f"1 of {lines} lines" in problem and f"line {lines}" in problem for problem in recording.problems)


def test_a_log_line_of_a_megabyte_is_left_out_and_those_after_it_are_read(folder):
    long, after = (
        json.dumps({"time": "2008-01-01T00:00:00Z", "level": "ERROR", "message": text})
        for text in ("x" * 10**6, "after")
    )
    (folder / "logs.jsonl").write_text(f"{long}\n{after}\n")
    recording = read_recording(folder)
    assert recording.logs["message"].tolist() == ["after"]
    assert any("1 of 2 lines" in problem for problem in recording.problems)


def test_hostile_text_is_made_visible_and_cut(folder):
    edit_incident(folder, service="\x1b[2J\u202e" + "x" * 2000)
    entry = {"time": "2008-01-01T00:00:00Z", "level": "ERROR", "message": "a\x07b\u2028c"}
    (folder / "logs.jsonl").write_text(json.dumps(entry))
    recording = read_recording(folder)
    assert recording.incident.service.startswith("\\x1b[2J\\u202e")
    assert len(recording.incident.service) < 600
    assert recording.logs["message"].tolist() == ["a\\x07b\\u2028c"]


def test_printable_leaves_ordinary_text_alone():
    assert printable("Prognose für München: 90 % ✓") == "Prognose für München: 90 % ✓"
