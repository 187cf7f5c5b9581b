"""Does the regression check see a broken rule? Break one on purpose, in a copy of the package, and look."""

import os
import subprocess
import sys

import pytest
from helpers import copy_folders

BREAKS = {
    "a rule that finds nothing": (
        'return frame.sort_values("date", kind="stable")',
        "return frame.copy()",
        "rule_scores",
    ),
    "a rule that drops too much": (
        "return frame[~quality.find_exact_duplicates(frame)]",
        "return frame[~quality.find_exact_duplicates(frame)].head(1040)",
        "01-data-cleaning: rows_clean: was 1047, now 1040",
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_cleaning_rule_fails_the_check_and_is_named(what, demo_project, tmp_path):
    old, new, words = BREAKS[what]
    copy_folders(tmp_path, "lepton_kit", "subjects")
    cleaning = tmp_path / "subjects/prices/cleaning.py"
    source = cleaning.read_text()
    assert source.count(old) == 1
    cleaning.write_text(source.replace(old, new))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LEPTON_", "PYTEST_"))}
    command = [sys.executable, "-m", "lepton_kit.cli", "check", "notebooks/01-data-cleaning.ipynb"]
    environment |= {"PYTHONPATH": str(tmp_path), "LEPTON_WARM": "0"}  # no fork server for this one check
    made = subprocess.run(command, cwd=demo_project, env=environment, capture_output=True, text=True)
    assert made.returncode == 1, made.stdout + made.stderr
    assert "✗ 01-data-cleaning: differs" in made.stdout
    assert words in made.stdout
