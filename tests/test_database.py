"""The database of a ledger: what is wrong with it is one clear error, and its password is nowhere."""

from __future__ import annotations

import sys

import pytest
from helpers import lepton_here, write_notebook
from postgres import PASSWORD

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.project.doctor import examine
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.ledger import Ledger
from lepton_kit.runs.runner import Options, Request, execute, prepare

SECRET = "hunter2"
NOWHERE = f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/state"


def name_ledger(project, address):
    (project / "lepton.toml").write_text(f"ledger = {address!r}\n")


def refusal(project, address):
    """Return what is said of a ledger, by the ledger itself and by `lepton doctor`."""
    name_ledger(project, address)
    with pytest.raises(InputError) as told:
        Queue(project)
    [found] = [one for one in examine(project) if one.what == "ledger"]
    assert (found.state, found.finding) == ("wrong", str(told.value))
    chain = [str(told.value), str(told.value.__cause__)]
    assert not [text for text in chain if SECRET in text or PASSWORD in text]
    return str(told.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"mysql://me:{SECRET}@db/state", "'mysql://me:***@db/state': must be postgresql+psycopg://USER@HOST/DATABASE"),
        ("sqlite:///other.sqlite", "'sqlite:///other.sqlite': must be postgresql+psycopg://"),
        (f"{SECRET} is no address", "is no address, and not shown here: must be postgresql+psycopg://"),
    ],
)
def test_an_address_that_is_none_of_postgresql_is_refused(project, address, shown):
    assert shown in refusal(project, address)


def test_a_server_that_is_not_there_is_named_without_its_password(project):
    pytest.importorskip("psycopg")
    told = refusal(project, NOWHERE)
    assert "ledger 'postgresql+psycopg://me:***@127.0.0.1:1/state'" in told
    assert "nothing was changed; see that the server runs" in told


def test_without_psycopg_the_extra_to_install_is_named(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    told = refusal(project, f"postgresql://other:{SECRET}@127.0.0.1:1/state")
    assert "pip install 'lepton-kit[postgres]'" in told


def test_a_wrong_password_and_a_missing_right_are_named_as_what_they_are(project, postgres_server):
    assert "password authentication failed" in refusal(project, postgres_server.address(password=SECRET))
    postgres_server.execute(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    postgres_server.execute("CREATE SCHEMA closed")
    postgres_server.execute("GRANT USAGE ON SCHEMA closed TO guest")
    told = refusal(project, postgres_server.address("closed", user="guest"))
    assert "permission denied for schema closed" in told
    assert "give this user the right to create and change tables in its schema" in told


def test_an_address_is_taken_from_where_it_is_kept(project, postgres_server, monkeypatch):
    name_ledger(project, "env:STATE")
    with pytest.raises(InputError, match="no environment variable 'STATE'"):
        Ledger(project)
    monkeypatch.setenv("STATE", postgres_server.new_ledger())
    assert Ledger(project).claim("k").state == "mine"
    [found] = [one for one in examine(project) if one.what == "ledger"]
    assert found.state == "ok"
    assert PASSWORD not in found.finding
    assert not (project / "runs").exists()


def test_a_run_that_is_kept_in_postgresql_holds_nothing_of_its_password(project, postgres_server):
    name_ledger(project, postgres_server.new_ledger())
    path = write_notebook(project / "notebooks/n.ipynb", ["lk.record('x', 1)"])
    run = execute(prepare(Request(path), project), project, options=Options(idempotency_key="k"))
    again = execute(prepare(Request(path), project), project, options=Options(idempotency_key="k"))
    assert (run.status, again.run_id) == ("succeeded", run.run_id)
    assert Ledger(project).sequence() == {run.run_id: 1}
    assert lepton_here("runs", project=project).returncode == 0
    held = [one for one in (project / "runs").rglob("*") if one.is_file() and PASSWORD.encode() in one.read_bytes()]
    assert held == []
    assert not (project / "runs/ledger.sqlite").exists()


def test_a_setting_that_is_wrong_is_shown_without_the_password_in_it(project):
    (project / "lepton.toml").write_text(f'legder = "{NOWHERE}"\n')
    with pytest.raises(InputError, match="legder") as told:
        read_settings(project)
    assert SECRET not in str(told.value)
    assert "me:***@127.0.0.1:1/state" in str(told.value)


def test_settings_that_are_no_toml_keep_nobody_from_the_wrong_ledger(project):
    (project / "lepton.toml").write_text("ledger = nowhere\n")
    with pytest.raises(InputError, match=r"lepton\.toml: not TOML"):
        Ledger(project).claim("k")
