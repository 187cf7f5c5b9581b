"""Bad input as a person meets it: one clear error, no traceback, nothing half-written left behind."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, lepton

from lepton_kit.runs.manifest import find_run

DAYS = pd.bdate_range("2020-01-01", periods=300).strftime("%Y-%m-%d").tolist()
PRICES = (100 + np.sin(np.arange(300.0))).round(2).astype(str).tolist()


def csv(dates=DAYS, prices=PRICES) -> bytes:
    return "\n".join(["date,close", *(f"{d},{p}" for d, p in zip(dates, prices, strict=True))]).encode()


BAD_TABLES = {  # a CSV, a Parquet file, and what is refused once it is read; test_sources.py has all that is refused
    "text.csv": (csv(prices=[*PRICES[:-1], "n/a today"]), "'n/a today'"),
    "not_a.parquet": (b"PAR1 but no more", "Parquet"),
    "one_row.csv": (csv(DAYS[:1], PRICES[:1]), "too short"),
    "no_price.csv": (b"date,weight\n2020-01-01,1\n", "close"),
}


@pytest.fixture
def cleaning(project) -> Path:
    """A project with the cleaning notebook."""
    shutil.copy(ROOT / "notebooks/01-data-cleaning.ipynb", project / "notebooks")
    return project


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_price_table_is_one_clear_error_and_leaves_no_artifact(name, cleaning):
    content, words = BAD_TABLES[name]
    (cleaning / name).write_bytes(content)
    made = lepton("run", "01-data-cleaning", "-p", "source", name, project=cleaning)
    assert made.returncode == 1
    assert "Traceback" not in made.stdout + made.stderr
    run = find_run("01-data-cleaning", cleaning)
    assert run.error.name == "InputError"
    assert name in run.error.message
    assert words in run.error.message
    assert run.error.message in made.stdout
    assert run.artifacts == []


def test_rows_out_of_order_are_no_error_but_a_fault_that_is_fixed(cleaning):
    dates, prices = [DAYS[1], DAYS[0], *DAYS[2:]], [PRICES[1], PRICES[0], *PRICES[2:]]
    (cleaning / "shuffled.csv").write_bytes(csv(dates, prices))
    made = lepton(
        "run", "01-data-cleaning", "-p", "source", "shuffled.csv", "-p", "planted_faults", "0", project=cleaning
    )
    assert made.returncode == 0, made.stdout + made.stderr
    run = find_run("01-data-cleaning", cleaning)
    clean = pd.read_parquet(run.folder(cleaning) / "artifacts/clean.parquet")
    assert clean["date"].is_monotonic_increasing
    assert dict(run.results["quality"].value["rows"][i][:2] for i in range(4))["out of order"] == 1


def test_a_price_table_with_names_of_its_own_goes_through(cleaning):
    table = Path(os.environ.get("LEPTON_DATA", ROOT / "../shared/data")).resolve() / "prices/brent-daily.csv"
    if not table.exists():
        pytest.skip("LEPTON_DATA holds no prices/brent-daily.csv (daily Brent prices, datasets/oil-prices, PDDL)")
    columns = json.dumps({"Date": "date", "Price": "close"})
    made = lepton("run", "01-data-cleaning", "-p", "source", str(table), "-p", "columns", columns, project=cleaning)
    assert made.returncode == 0, made.stdout + made.stderr
    assert find_run("01-data-cleaning", cleaning).results["rows_read"].value > 9000


def test_a_model_with_one_byte_changed_is_not_deployed(demo_project, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(demo_project, project)
    version = project / "models/goog" / find_version(project)
    weights = bytearray((version / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (version / "model.safetensors").write_bytes(weights)
    made = lepton("run", "04-deployment", project=project)
    assert made.returncode == 1
    assert "model.safetensors: has been changed" in made.stdout
    assert "Traceback" not in made.stdout + made.stderr
    assert find_run("04-deployment", project).artifacts == []


def find_version(project: Path) -> str:
    run = find_run("04-deployment", project)
    return json.loads((run.folder(project) / "artifacts/deployment.json").read_text())["version"]


def test_a_notebook_that_is_not_json_starts_nothing(cleaning):
    (cleaning / "notebooks/broken.ipynb").write_text('{"cells": [')
    made = lepton("run", "broken", project=cleaning)
    assert made.returncode == 2
    assert "not a Jupyter notebook" in made.stderr
    assert not (cleaning / "runs").exists()
