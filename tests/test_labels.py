"""Wrong labels: they rank first, people's answers are checked, and agreement is what its source says."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, copy_folders, lepton
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from lepton_kit.data import annotations, labels
from lepton_kit.errors import InputError
from lepton_kit.runs.manifest import finished_runs

REVIEWED = Path(os.environ.get("LEPTON_DATA", ROOT.parent / "shared" / "data")) / "labels"


@pytest.fixture(scope="module")
def digits() -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """Return 500 images of digits, their labels, and the same with 25 wrong ones."""
    pixels, true = load_digits(return_X_y=True, as_frame=True)
    pixels, true = pixels.head(500), true.head(500)
    rng = np.random.default_rng(0)
    places = rng.choice(len(true), 25, replace=False)
    given = true.copy()
    given.iloc[places] = (true.iloc[places] + rng.integers(1, 10, len(places))) % 10
    return pixels / 16, true, given


@pytest.fixture(scope="module")
def ranked(digits) -> pd.DataFrame:
    pixels, _, given = digits
    return labels.rank_labels(given, labels.out_of_fold(LogisticRegression(), pixels, given))


# --- the ranking ----------------------------------------------------------------------------------------------------


def test_planted_wrong_labels_rank_first_with_the_right_one_suggested(digits, ranked):
    _, true, given = digits
    is_wrong = (given != true)[ranked.index]
    assert roc_auc_score(is_wrong, ranked["wrong"]) > 0.97
    first = ranked.head(20)
    assert is_wrong.head(20).mean() >= 0.9
    assert (first["suggested"] == true[first.index])[is_wrong.head(20)].mean() >= 0.9
    assert ranked["wrong"].between(0, 1).all() and ranked["wrong"].is_monotonic_decreasing
    suspects = ranked[ranked["suspect"]]
    assert is_wrong[suspects.index].mean() > 0.8 and (suspects["given"] != suspects["suggested"]).all()


def test_the_same_seed_gives_the_same_ranking_and_nothing_given_is_changed(digits, ranked):
    pixels, _, given = digits
    before = given.copy()
    again = labels.rank_labels(given, labels.out_of_fold(LogisticRegression(), pixels, given))
    pd.testing.assert_frame_equal(again, ranked)
    pd.testing.assert_series_equal(given, before)


def test_a_row_is_judged_by_no_model_that_saw_it_or_a_copy_of_it():
    """A model that remembers every row is right about none that it has not seen."""
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(40, 3)))
    given = pd.Series(rng.integers(0, 2, 40))
    rows, given = pd.concat([rows, rows], ignore_index=True), pd.concat([given, given], ignore_index=True)
    made = labels.out_of_fold(KNeighborsClassifier(1), rows, given)
    assert (made.to_numpy()[np.arange(80), given] == 1).mean() < 0.75  # by lot a half; all, had it seen the copies


def test_text_classes_and_ids_stay_as_they_are(digits):
    pixels, true, _ = digits
    names = true.map(lambda digit: f"n{digit}").set_axis([f"row {place}" for place in true.index])
    made = labels.rank_labels(names, labels.out_of_fold(LogisticRegression(), pixels.set_axis(names.index), names))
    assert set(made.index) == set(names.index)
    assert set(made["suggested"]) <= set(names)


def table(*rows) -> pd.DataFrame:
    return pd.DataFrame(rows * 5, columns=["a", "b"])


@pytest.mark.parametrize(
    ("given", "chances", "message"),
    [
        (["a", "b"] * 4 + ["a", None], table([0.9, 0.1], [0.2, 0.8]), "row 9: label = .*: must be a class"),
        (["a", "b"] * 4 + ["a", "c"], table([0.9, 0.1], [0.2, 0.8]), "row 9: label = 'c': must be a class"),
        (["a"] * 10, table([0.9, 0.1], [0.2, 0.8]), "all are 'a'; there must be two classes"),
        (["a"] * 8 + ["b"] * 2, table([0.9, 0.1], [0.2, 0.8]), "class 'b' has 2 rows; 5 folds need 5"),
        (["a", "b"] * 5, table([0.9, 0.1], [np.nan, 0.8]), r"row 1: probabilities = \[nan, 0.8\]: must be 0 or more"),
        (["a", "b"] * 4, table([0.9, 0.1], [0.2, 0.8]), "must have the same index"),
    ],
)
def test_labels_and_probabilities_that_cannot_be_ranked_are_refused_with_the_row(given, chances, message):
    with pytest.raises(InputError, match=message):
        labels.rank_labels(pd.Series(given), chances)


def test_labels_that_people_reviewed_are_told_apart_better_than_by_the_raw_probability():
    if not (REVIEWED / "mnist.parquet").is_file():
        pytest.skip(f"{REVIEWED} holds no mnist.parquet; set LEPTON_DATA (cleanlab/label-errors, Apache-2.0)")
    read = pd.read_parquet(REVIEWED / "mnist.parquet")
    chances = read.filter(regex="^p_").rename(columns=lambda name: int(name.removeprefix("p_")))
    given, wrong = read["given"].astype(int), read.loc[read["reviewed"], "wrong"].astype(int)
    made = labels.rank_labels(given, chances)["wrong"]
    own = pd.Series(chances.to_numpy()[np.arange(len(given)), given], given.index)
    assert roc_auc_score(wrong, made[wrong.index]) > max(0.76, roc_auc_score(wrong, -own[wrong.index]))


# --- the queue ------------------------------------------------------------------------------------------------------


def answers(*lines, at="2026-11-30T09:00Z") -> pd.DataFrame:
    made = pd.DataFrame(lines, columns=["id", "label", "labeller"])
    return made.assign(labelled_at=pd.Timestamp(at))


def test_the_queue_asks_about_disagreement_first_and_not_again_about_what_is_agreed():
    rank = pd.DataFrame({"wrong": [0.9, 0.8, 0.6, 0.4, 0.1]}, index=list("vwxyz"))
    assert list(labels.queue(rank, 3)) == ["v", "w", "x"]
    known = answers(("v", 1, "ann"), ("v", 1, "ben"), ("w", 0, "ann"), ("y", 0, "ann"), ("y", 1, "ben"))
    assert list(labels.queue(rank, 9, known)) == ["y", "w", "x", "z"]
    assert list(labels.queue(rank, 9, known, labellers=1)) == ["y", "x", "z"]


# --- the annotation table -------------------------------------------------------------------------------------------

ROWS = pd.DataFrame({"radius": [1.0, 2.0, 2.0], "size": ["small", "large", "large"]}, index=[7, 8, 9])


def written(tmp_path, *lines, name="answers.csv") -> Path:
    path = tmp_path / name
    pd.DataFrame(lines, columns=["id", "label", "labeller", "labelled_at"]).to_csv(path, index=False)
    return path


def test_a_table_is_filled_in_and_read_back_with_who_and_when(tmp_path):
    path = tmp_path / "to-label.csv"
    annotations.write_annotation_table(ROWS, path)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(table) == ["id", "radius", "size", "label", "labeller", "labelled_at"]
    assert (table[["label", "labeller", "labelled_at"]] == "").all(axis=None)
    table.loc[0, ["label", "labeller", "labelled_at"]] = ["1", "ann", "2026-11-30T10:00+01:00"]
    table.loc[2, ["label", "labeller"]] = [" 0 ", "ann"]
    table.to_csv(path, index=False)
    os.utime(path, (1_800_000_000, 1_800_000_000))
    read = annotations.read_annotations([path], [0, 1], ROWS)
    assert read[["id", "label", "labeller"]].values.tolist() == [[7, 1, "ann"], [9, 0, "ann"]]
    assert read["labelled_at"].tolist() == [
        pd.Timestamp("2026-11-30T09:00Z"), pd.Timestamp(1_800_000_000, unit="s", tz="UTC"),
    ]  # fmt: skip


def test_a_table_that_may_hold_answers_is_not_overwritten(tmp_path):
    path = written(tmp_path, (7, 1, "ann", ""))
    before = path.read_bytes()
    with pytest.raises(InputError, match="is there already, and may hold answers"):
        annotations.write_annotation_table(ROWS, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([(7, "maybe", "ann", "")], r"answers.csv row 1 \(id 7\): label = 'maybe': must be one of 0, 1"),
        ([(7, 1, "ann", ""), (5, 1, "ann", "")], r"row 2 \(id 5\): id = '5': is no row that was asked about"),
        ([(7, 1, "", "")], r"row 1 \(id 7\): labeller = '': must say who answered"),
        ([(7, 1, "ann", "noon")], r"row 1 \(id 7\): labelled_at = 'noon': must be a time"),
        ([(7, 1, "ann", ""), (7, 1, "ann", "")], r"row 2 \(id 7\): label = '1': is the second of this labeller"),
        ([(8, 1, "ann", ""), (9, 0, "ann", "")], r"row 2 \(id 9\): label = '0': differs .* of an identical row"),
    ],
)
def test_what_is_not_consistent_is_refused_with_its_row_and_value(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        annotations.read_annotations([written(tmp_path, *lines)], [0, 1], ROWS)


def test_every_fault_is_named_at_once_and_many_are_counted(tmp_path):
    path = written(tmp_path, *[(7, f"x{place}", "ann", "") for place in range(9)], (5, "1", "", ""))
    with pytest.raises(InputError, match=r"id = '5'.*label = 'x0'.*; and \d+ more$"):
        annotations.read_annotations([path], [0, 1], ROWS)


def test_two_labellers_may_differ_also_across_files(tmp_path):
    paths = [
        written(tmp_path, (8, 1, "ann", "")),
        written(tmp_path, (8, 0, "ben", ""), (9, 0, "ben", ""), name="b.csv"),
    ]
    assert len(annotations.read_annotations(paths, [0, 1], ROWS)) == 3
    twice = written(tmp_path, (8, 0, "ann", ""), name="c.csv")
    with pytest.raises(InputError, match=r"c.csv row 1 \(id 8\): label = '0': is the second"):
        annotations.read_annotations([*paths, twice], [0, 1], ROWS)


def test_a_file_that_is_no_annotation_table_is_refused_by_name(tmp_path):
    ROWS.to_csv(tmp_path / "rows.csv")
    with pytest.raises(InputError, match=r"rows.csv: lacks column id, label, labeller, labelled_at"):
        annotations.read_annotations([tmp_path / "rows.csv"], [0, 1], ROWS)
    with pytest.raises(InputError, match=r"none.csv: cannot be read as a table"):
        annotations.read_annotations([tmp_path / "none.csv"], [0, 1], ROWS)


def test_a_table_without_an_answer_gives_no_annotations(tmp_path):
    annotations.write_annotation_table(ROWS, tmp_path / "to-label.csv")
    read = annotations.read_annotations([tmp_path / "to-label.csv"], [0, 1], ROWS)
    assert list(read) == ["id", "label", "labeller", "labelled_at"] and read.empty


def test_the_majority_settles_a_label_and_a_tie_settles_none():
    known = answers(
        ("v", 1, "ann"), ("v", 1, "ben"), ("v", 0, "cem"), ("w", 1, "ann"), ("w", 0, "ben"), ("x", 0, "cem")
    )
    settled = annotations.settle(known)
    assert settled[["label", "votes", "labellers"]].to_dict("index") == {
        "v": {"label": 1, "votes": 2, "labellers": 3},
        "x": {"label": 0, "votes": 1, "labellers": 1},
    }


# --- agreement ------------------------------------------------------------------------------------------------------

# Krippendorff (2011), section C: four observers, twelve units, missing values; alpha = 0.743 of nominal data.
OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def test_alpha_is_that_of_its_source_with_missing_labels():
    lines = [
        (unit, label, observer)
        for observer, given in enumerate(OBSERVERS)
        for unit, label in enumerate(given)
        if label != "."
    ]
    assert annotations.krippendorff_alpha(answers(*lines)) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_one_label_or_of_no_pair_is_unknown_and_of_contradiction_negative():
    assert np.isnan(annotations.krippendorff_alpha(answers(("v", 1, "ann"), ("v", 1, "ben"))))
    assert np.isnan(annotations.krippendorff_alpha(answers(("v", 1, "ann"), ("w", 0, "ben"))))
    assert annotations.krippendorff_alpha(answers(*[(i, i % 2 ^ who, who) for i in range(8) for who in (0, 1)])) < 0


def test_kappa_is_that_of_scikit_learn_on_the_rows_that_both_labelled():
    lines = [(row, label, "ann") for row, label in enumerate([1, 0, 1, 1, 0, 1])]
    lines += [(row, label, "ben") for row, label in enumerate([1, 0, 0, 1, 1])]
    lines += [(9, 1, "cem")]
    made = annotations.cohen_kappas(answers(*lines)).set_index(["one", "other"])
    assert made.loc[("ann", "ben"), "rows"] == 5
    assert made.loc[("ann", "ben"), "kappa"] == pytest.approx(cohen_kappa_score([1, 0, 1, 1, 0], [1, 0, 0, 1, 1]))
    assert made.loc[("ann", "cem"), "rows"] == 0 and np.isnan(made.loc[("ann", "cem"), "kappa"])


# --- the notebook ---------------------------------------------------------------------------------------------------


def test_the_notebook_corrects_the_table_by_what_people_answered(tmp_path):
    (tmp_path / "lepton.toml").write_text("")
    copy_folders(tmp_path, "notebooks", "subjects")
    written(tmp_path, (3, 0, "ann", ""), (4, 1, "ann", ""))
    words = ("-p", "answered", '["answers.csv"]', "-p", "planted_share", "0", "-p", "seed", "7")
    made = lepton("run", "notebooks/06-labels.ipynb", *words, project=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    run = next(iter(finished_runs(tmp_path)))
    left = run.folder(tmp_path) / "artifacts"
    corrected = pd.read_parquet(left / "corrected.parquet")
    assert len(corrected) == 569 and corrected["malignant"].iloc[[3, 4]].tolist() == [0, 1]
    assert pd.read_csv(left / "answers.csv")["labeller"].tolist() == ["ann", "ann"]
    assert len(list(left.glob("to-label-*.csv"))) == 1
    refused = lepton("run", "notebooks/06-labels.ipynb", "-p", "answered", '["answers.csv"]', project=tmp_path)
    assert "planted_share = 0.1: must be 0 with answered tables" in refused.stdout + refused.stderr


def test_the_notebook_ends_early_for_a_subject_without_classes(tmp_path):
    (tmp_path / "lepton.toml").write_text('[services.rent]\ntask = "regression"\n')
    copy_folders(tmp_path, "notebooks")
    made = lepton("run", "notebooks/06-labels.ipynb", "-p", "subject", "rent", project=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    (run,) = finished_runs(tmp_path)
    assert run.ended_early == "rent (regression): only the labels of classes are ranked here"
