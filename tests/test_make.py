"""What runs, the demo and a report leave in a checkout changes nothing of `make test`, and `make clean` removes it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import helpers
import pytest
from helpers import ROOT, copy_folders

STAYS = {".axe", ".mlflow", ".conda-ready", "monitoring/webhook-token", "monitoring/data"}
LEFT = sorted(
    line.strip("/")
    for line in (ROOT / ".gitignore").read_text().splitlines()
    if line.startswith("/") and line.strip("/") not in STAYS
)
"""What git ignores in the root alone: all that runs leave, and tools that were brought."""
SOURCES = ("lepton_kit", "tests", "benchmarks", "notebooks", "runbooks", "reports")


@pytest.fixture
def checkout(tmp_path):
    """A copy of this repository in which much has run."""
    copy_folders(tmp_path, *SOURCES)
    for name in ("Makefile", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    for place in LEFT:
        (tmp_path / place / "2026").mkdir(parents=True)
        (tmp_path / place / "2026/left.py").write_text("import  os, re\nl = [ ]")
    for path in (ROOT / "tests").glob("*.py"):  # a person may call a folder as a module of the tests is called
        (tmp_path / path.stem).mkdir(exist_ok=True)
    return tmp_path


def ruff(checkout: Path, *words: str) -> str:
    command = [sys.executable, "-m", "ruff", *words, "."]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True).stdout


def test_there_is_something_that_runs_leave():
    assert {"runs", "models", "services", "telemetry", "incidents", "drills", "reports/listings"} <= set(LEFT)


def test_lint_says_the_same_whatever_runs_have_left(checkout):
    assert ruff(checkout, "check") == "All checks passed!\n"
    assert "would be" not in ruff(checkout, "format", "--check")
    (checkout / "lepton_kit/runs/new.py").write_text("import  os, re")  # only the root's folders are left out
    assert "lepton_kit/runs/new.py" in ruff(checkout, "check")


def test_make_clean_removes_all_that_git_ignores_but_what_was_brought_or_is_a_persons(checkout):
    for place in STAYS:
        (checkout / place).mkdir(parents=True)
    before = {path for path in checkout.rglob("*") if "left.py" not in path.name}
    subprocess.run(["make", "clean"], cwd=checkout, check=True, capture_output=True)
    assert [place for place in LEFT if (checkout / place).exists()] == []
    gone = {path.relative_to(checkout).as_posix() for path in before if not path.exists()}
    assert all(any(path == place or path.startswith(f"{place}/") for place in LEFT) for path in gone), gone
    assert all((checkout / place).exists() for place in STAYS)


def test_projects_that_tests_make_have_nothing_of_what_runs_have_left(checkout, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(helpers, "ROOT", checkout)
    made = tmp_path_factory.mktemp("project")
    copy_folders(made, *SOURCES)
    assert list(made.rglob("left.py")) == []
    assert (made / "reports/index.qmd").exists()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout of git")
def test_tests_copy_from_a_folder_exactly_what_git_does_not_ignore(tmp_path):
    folders = (*SOURCES, "slo", "monitoring")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders]
    told = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    copy_folders(tmp_path, *folders)
    copied = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert copied == {name for name in told.split("\0") if name and (ROOT / name).exists()}


def test_no_test_copies_a_folder_of_the_checkout_or_runs_in_it_by_itself():
    """`copy_folders` and the fixture `own_project` leave out what has run here; recordings are of git alone."""
    by_itself = re.compile(r'copytree\(\s*(?:ROOT|FOLDER)\b(?! / "runbooks/(?:recordings|examples)/)|\bproject=ROOT\b')
    found = {path.name for path in (ROOT / "tests").glob("*.py") if by_itself.search(path.read_text())}
    assert found == {"helpers.py"}


def test_continuous_integration_runs_the_demo_and_then_the_tests_in_one_checkout():
    steps = re.findall(r"(?m)^make (\w+)$", (ROOT / ".ci/run").read_text())
    assert steps == ["demo", "test"]
