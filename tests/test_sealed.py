"""Recordings encrypted at rest: nothing of them can be read without the key, and all of it with it."""

from __future__ import annotations

import dataclasses
import shutil

import pandas as pd
import pytest
from helpers import ROOT, lepton_here

pytest.importorskip("cryptography")

from lepton_kit.errors import InputError
from lepton_kit.project.doctor import examine
from lepton_kit.telemetry.recordings import read_recording, write_recording
from lepton_kit.telemetry.sealed import opened, seal

PLANTED, KEY = "marmalade", "a key of one's own"


@pytest.fixture
def recording():
    """A recording that holds the same word in each of its parts."""
    held = read_recording(ROOT / "runbooks/recordings/queue-saturation")
    declaration = held.incident.declaration.model_copy(update={"logs": PLANTED})
    log = {"time": held.logs["time"].iloc[0], "level": "INFO", "message": PLANTED, "fields": "{}"}
    return dataclasses.replace(
        held,
        incident=held.incident.model_copy(update={"format": "lepton-recording/2", "declaration": declaration}),
        requests=held.requests.assign(request_id=PLANTED),
        metrics=held.metrics.assign(metric=PLANTED),
        reference=held.reference.assign(word=PLANTED),
        logs=pd.DataFrame([log]),
        topology=pd.DataFrame({"caller": [PLANTED], "callee": ["it"]}),
    )


def parts_with(folder, word):
    """Return the files that hold a word, read as they are and as Parquet."""
    found = set()
    for path in folder.iterdir():
        if path.is_file() and word.encode() in path.read_bytes():
            found.add(path.name)
        if path.suffix == ".parquet":
            try:
                table = pd.read_parquet(path)
            except Exception:  # it is no Parquet any more
                continue
            if table.astype(str).eq(word).any(axis=None):
                found.add(path.name)
    return found


def test_no_part_of_a_sealed_recording_holds_a_planted_value_and_the_key_opens_all(recording, tmp_path, monkeypatch):
    monkeypatch.setenv("RECORDING_KEY", KEY)
    plain, sealed = write_recording(recording, tmp_path / "plain"), tmp_path / "sealed"
    assert parts_with(plain, PLANTED) >= {
        "incident.json", "requests.parquet", "metrics.parquet", "reference.parquet", "logs.jsonl", "topology.csv",
    }  # fmt: skip
    write_recording(recording, sealed, truth={"word": PLANTED}, key="env:RECORDING_KEY")
    assert parts_with(sealed, PLANTED) == set()
    assert not any(KEY.encode() in path.read_bytes() for path in sealed.rglob("*") if path.is_file())
    known, again = read_recording(plain), read_recording(sealed)
    for name in ("requests", "metrics", "reference", "logs", "topology"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(known, name))
    assert (again.incident, again.signals, again.absent, again.problems) == (
        known.incident, known.signals, known.absent, known.problems,
    )  # fmt: skip
    assert {*again.models} == {*known.models}


def test_a_wrong_and_a_missing_key_are_one_error_that_says_where_it_was_looked_for(recording, tmp_path, monkeypatch):
    monkeypatch.setenv("RECORDING_KEY", KEY)
    folder = write_recording(recording, tmp_path / "sealed", key="env:RECORDING_KEY")
    monkeypatch.setenv("RECORDING_KEY", "another key")
    with pytest.raises(InputError, match=r"incident.json: is encrypted, and 'env:RECORDING_KEY' does not open it"):
        read_recording(folder)
    monkeypatch.delenv("RECORDING_KEY")
    with pytest.raises(InputError, match=r"its key cannot be read: secret 'env:RECORDING_KEY': there is no "):
        read_recording(folder)


def test_a_file_that_was_changed_is_named_and_the_rest_is_read(recording, tmp_path, monkeypatch):
    monkeypatch.setenv("RECORDING_KEY", KEY)
    folder = write_recording(recording, tmp_path / "sealed", key="env:RECORDING_KEY")
    damaged = folder / "logs.jsonl"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    found = read_recording(folder)
    assert (found.absent, len(found.requests)) == (("logs.jsonl",), len(recording.requests))
    assert any("logs.jsonl: is encrypted, and 'env:RECORDING_KEY' does not open it" in one for one in found.problems)


def test_the_file_of_a_key_is_looked_for_in_the_project_wherever_one_stands(tmp_path, monkeypatch):
    (tmp_path / "lepton.toml").write_text("")
    (tmp_path / "recording.key").write_text(KEY)
    folder = tmp_path / "incidents" / "one"
    folder.mkdir(parents=True)
    (folder / "logs.jsonl").write_text(PLANTED)
    seal(folder, "file:recording.key")
    monkeypatch.chdir("/")
    with opened(folder / "logs.jsonl") as file:
        assert file.read() == PLANTED.encode()


def test_what_is_captured_is_sealed_by_the_projects_key_and_the_doctor_holds_it_against_reality(project, monkeypatch):
    monkeypatch.setenv("RECORDING_KEY", KEY)
    settings = "[capture]\nkey = 'env:RECORDING_KEY'\n[services.shop]\nlogs = 'app.log'\n"
    (project / "lepton.toml").write_text(settings)
    (project / "app.log").write_text(f'{{"time": "{pd.Timestamp.now("UTC").isoformat()}", "message": "{PLANTED}"}}\n')
    made = lepton_here("capture", "shop", "-o", "kept", project=project, RECORDING_KEY=KEY)
    assert made.returncode == 0, made.stderr
    assert parts_with(project / "kept", PLANTED) == set()
    assert read_recording(project / "kept").logs["message"].tolist() == [PLANTED]
    assert next(one.state for one in examine(project) if one.what == "capture.key") == "ok"
    monkeypatch.delenv("RECORDING_KEY")
    assert next(one.state for one in examine(project) if one.what == "capture.key") == "wrong"
    shutil.rmtree(project / "kept")
    refused = lepton_here("capture", "shop", "-o", "kept", project=project)
    assert (refused.returncode, "env:RECORDING_KEY" in refused.stderr) == (2, True)
    assert not (project / "kept").exists()
