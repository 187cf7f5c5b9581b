"""Projects to test in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from helpers import ROOT, lepton


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, which this process stands in."""
    (tmp_path / "lepton.toml").write_text("")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.delenv("LEPTON_PROJECT", raising=False)
    monkeypatch.delenv("LEPTON_RUN_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def demo_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project in which the demo's pipeline has run: once for all test processes."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if shared.name.startswith("popen-") else shared  # the workers' common folder under xdist
    copy = shared / "demo"
    with FileLock(shared / "demo.lock"):
        if not (copy / "done").exists():
            shutil.rmtree(copy, ignore_errors=True)
            for folder in ("notebooks", "runbooks", "reports", "slo"):
                shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("_site", ".quarto"))
            shutil.copy(ROOT / "lepton.toml", copy)
            run = lepton("pipeline", "goog", project=copy)
            assert run.returncode == 0, run.stdout + run.stderr
            (copy / "done").write_text(run.stdout)
    return copy
