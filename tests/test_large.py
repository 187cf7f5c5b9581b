import numpy as np
import pandas as pd
import pytest
from helpers import copy_folders, lepton

from lepton_kit.data import large, quality
from lepton_kit.data.contracts import Contract
from lepton_kit.data.profiles import drift_table, profile_of, read_profile
from lepton_kit.errors import InputError
from lepton_kit.project.subjects import find_subject
from lepton_kit.runs.manifest import NOTEBOOK, finished_runs

CONTRACT = Contract(numbers=("load", "age"), categories=("region",), id="id")


def table(seed: int = 0, rows: int = 3000) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    made = pd.DataFrame({"id": range(rows), "load": rng.normal(size=rows), "age": rng.integers(18, 90, rows)})
    return made.assign(region=rng.choice(["north", "south", "west"], rows))


def in_parts(made: pd.DataFrame, folder, kind: str = "parquet"):
    folder.mkdir()
    for place in range(3):
        part = made.iloc[place * len(made) // 3 : (place + 1) * len(made) // 3]
        part.to_parquet(folder / f"{place}.parquet") if kind == "parquet" else part.to_csv(
            folder / f"{place}.csv", index=False
        )
    return folder


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_the_profile_of_files_is_that_of_the_table_they_hold(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(large, "CHUNK", 700)
    whole, made = profile_of(table()), large.profile_of_files(in_parts(table(), tmp_path / "t", kind))
    assert made.rows == 3000 and large.rows_of(tmp_path / "t") == 3000
    for name in ("load", "age", "region"):
        one, other = whole.columns[name], made.columns[name]
        assert (sorted(one.bins), sorted(one.counts)) == (sorted(other.bins), sorted(other.counts))


def test_files_are_compared_with_a_profile_chunk_by_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(large, "CHUNK", 700)
    now = table(1).assign(load=lambda made: made["load"] + 1)
    found = drift_table(profile_of(table()), large.chunks(in_parts(now, tmp_path / "t") / "*.parquet"))
    assert found.index[found["moved"]].tolist() == ["load"]
    assert found.attrs["rows"] == {"reference": 3000, "current": 3000}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_faults_of_files_are_counted_as_those_of_a_table(tmp_path, kind):
    faulty = table().astype({"age": object})
    faulty.loc[10:19, "age"] = "n/a" if kind == "csv" else None
    faulty.loc[30:34, "load"] = np.nan
    faulty.loc[40:42, "load"] = np.inf
    faulty.loc[50, "id"] = 49
    faulty = pd.concat([faulty, faulty.iloc[60:67]], ignore_index=True)
    if kind == "parquet":
        faulty["age"] = faulty["age"].astype(float)
    found = large.quality_of_files(in_parts(faulty, tmp_path / "t", kind), CONTRACT).set_index("check")["rows"]
    told = quality.quality_report(faulty, CONTRACT).set_index("check")["rows"]
    same = ["wrong types", "missing values", "exact duplicates"]
    assert found[same].to_dict() == told[same].to_dict()
    assert found["infinite values"] == 3 == told["impossible values"]
    assert found["repeated ids"] == 8  # the id that another row has, and those of the rows that repeat one


def test_a_sample_by_lot_is_the_same_for_a_seed(tmp_path):
    folder = in_parts(table(), tmp_path / "t")
    first, again, other = (large.sample_of(folder, 50, seed) for seed in (1, 1, 2))
    assert len(first) == 50 and first.equals(again) and not first.equals(other)


def test_what_is_no_table_is_refused_by_its_name(tmp_path):
    with pytest.raises(InputError, match="gone: no file"):
        large.rows_of(tmp_path / "gone")
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(InputError, match=r"x\.parquet: not readable as a table"):
        large.rows_of(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="lacks column age"):
        large.quality_of_files(in_parts(table().drop(columns="age"), tmp_path / "t"), CONTRACT)
    (tmp_path / "t" / "3.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match="several kinds"):
        large.rows_of(tmp_path / "t")


def test_notebook_01_counts_the_faults_of_a_large_table_and_says_what_it_leaves(tmp_path):
    (tmp_path / "lepton.toml").write_text("")
    copy_folders(tmp_path, "notebooks", "subjects")
    known = find_subject("scoring", tmp_path)
    rows = known.table()
    in_parts(pd.concat([rows, rows.head(5)], ignore_index=True), tmp_path / "t")
    words = ["-p", "subject", "scoring", "-p", "source", "t", "-p", "most_rows", "300"]
    made = lepton("run", "notebooks/01-data-cleaning.ipynb", *words, project=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    (run,) = finished_runs(tmp_path)
    found = {name: count for name, count, *_ in run.results["quality_of_all_rows"].value["rows"]}
    assert run.results["rows_read"].value == len(rows) + 5 and found["exact duplicates"] == 5
    assert "rows_clean" not in run.results
    assert read_profile(run.folder(tmp_path) / "artifacts/profile.json").rows == len(rows) + 5
    assert "cleaning and the parts need a smaller table" in (run.folder(tmp_path) / NOTEBOOK).read_text()
