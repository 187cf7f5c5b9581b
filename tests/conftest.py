"""Projects to test in."""

from __future__ import annotations

import compileall
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
from filelock import FileLock
from helpers import ROOT, copy_project, lepton, listening
from receivers import SECRET, Receiver


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once: where PYTHONDONTWRITEBYTECODE is set, each process that a test starts would do so.

    And let Ctrl-C reach what tests start: a shell starts what runs behind it with SIGINT ignored, which is inherited.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # the workers of xdist follow on the process that started them
        for package in ("lepton_kit", "subjects"):
            compileall.compile_dir(ROOT / package, quiet=2)


LONG = (
    "declared_incidents", "begin", "subject_notebooks", "operator", "repair_runbooks", "recorded_services",
    "declared_repairs", "alerts", "kills", "watch_embedded", "deployment", "watch_remedies", "runbook_words", "watch",
    "kernels", "localisation", "causes", "hostile_pages", "serving_flavors", "live_diagnosis", "drills", "cluster",
)  # fmt: skip
"""Modules with a test that takes ten seconds or more, or many that take some."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes long, so that no worker is left alone with it in the end: incidents at real services, what
    needs the demo's pipeline, and then `LONG`.
    """
    first = ("whole_project", "demo_project")
    places = {f"test_{name}": place for place, name in enumerate(LONG)}

    def place(item: pytest.Item) -> tuple[list[bool], int]:
        needed = [name not in getattr(item, "fixturenames", ()) for name in first]
        return needed, places.get(item.path.stem, len(LONG))

    items.sort(key=place)


@pytest.fixture
def project(plain_project: Path) -> Path:
    """An empty project, which this process stands in."""
    return plain_project


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A server of notices, whose address is in `NOTIFY_URL`."""
    made = Receiver()
    with listening(made.handler) as address:
        monkeypatch.setenv("NOTIFY_URL", f"{address.replace('http', 'json')}/{SECRET}")
        yield made


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Postgres]:
    """A PostgreSQL for all tests of this process."""
    if (why := postgres.missing()) is not None:
        pytest.skip(why)
    with postgres.postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def either_project(plain_project: Path, request: pytest.FixtureRequest) -> Path:
    """An empty project whose ledger is a file, and one whose ledger is in PostgreSQL."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        (plain_project / "lepton.toml").write_text(f'ledger = "{server.new_ledger()}"\n')
    return plain_project


@pytest.fixture
def plain_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with its ledger in a file."""
    (tmp_path / "lepton.toml").write_text("")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.delenv("LEPTON_PROJECT", raising=False)
    monkeypatch.delenv("LEPTON_RUN_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def own_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's settings, objectives and runbooks, in which nothing has run: tests only read it."""
    return copy_project(tmp_path_factory.mktemp("own") / "project", "runbooks", "slo")


@pytest.fixture(scope="session")
def demo_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project in which the demo's pipeline has run: once for all test processes."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if shared.name.startswith("popen-") else shared  # the workers' common folder under xdist
    copy = shared / "demo"
    with FileLock(shared / "demo.lock"):
        if not (copy / "done").exists():
            shutil.rmtree(copy, ignore_errors=True)
            copy_project(copy, "notebooks", "runbooks", "reports", "slo", "subjects")
            run = lepton("pipeline", "goog", project=copy)
            assert run.returncode == 0, run.stdout + run.stderr
            (copy / "done").write_text(run.stdout)
    return copy
