import json

import numpy as np
import pandas as pd
import pytest

from lepton_kit.data.drift import population_stability_index
from lepton_kit.data.profiles import drift_table, profile_of, read_profile
from lepton_kit.errors import InputError
from lepton_kit.telemetry.private import Private


def table(seed: int, rows: int = 2000) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "load": rng.normal(size=rows),
            "price": rng.exponential(size=rows),
            "kinds": rng.integers(0, 3, rows),
            "gaps": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
            "is_new": rng.random(rows) < 0.4,
            "region": rng.choice(["north", "south", "west"], rows),
            "town": pd.Series(rng.choice(list("abcdefgh"), rows)).astype("category"),
        }
    )


def moved(reference, current, **limits) -> list[str]:
    found = drift_table(reference, current, **limits)
    return sorted(found.index[found["moved"]])


def test_nothing_has_moved_in_another_sample_of_the_same():
    found = drift_table(profile_of(table(0)), table(1))
    assert sorted(found.index) == sorted(table(0)) and found.attrs["left_out"] == {}
    assert not found["moved"].any()


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("load", lambda was: was + 0.5),
        ("load", lambda was: was * 2),
        ("price", lambda was: was.where(np.arange(len(was)) % 20 > 0, 99.0)),
        ("kinds", lambda was: was.replace(1, 2)),
        ("kinds", lambda was: was.replace(1, 3)),
        ("gaps", lambda was: was.where(np.arange(len(was)) % 2 == 0)),
        ("load", lambda was: was * np.nan),
        ("is_new", lambda was: was | (np.arange(len(was)) % 3 == 0)),
        ("region", lambda was: was.replace("west", "east")),
        ("region", lambda was: was.where(was != "west")),
        ("town", lambda was: was.astype(str).replace({"a": "b", "c": "d"})),
    ],
)
def test_exactly_the_column_that_moved_is_named(column, change):
    now = table(1)
    assert moved(profile_of(table(0)), now.assign(**{column: change(now[column])})) == [column]


@pytest.mark.parametrize("now", [0.0, 2.0])
def test_a_constant_that_became_another_has_moved_either_way(now):
    assert moved(pd.DataFrame({"x": [1.0] * 200}), pd.DataFrame({"x": [now] * 200})) == ["x"]


def test_a_difference_of_a_million_rows_that_matters_to_nobody_is_none():
    rng = np.random.default_rng(0)
    was, now = (pd.DataFrame({"x": rng.normal(mean, 1, 1_000_000)}) for mean in (0, 0.02))
    found = drift_table(was, now).loc["x"]
    assert not found["moved"] and found["limit"] == 0.1
    assert found["mean_shift"] == pytest.approx(0.02, abs=0.005)


@pytest.mark.parametrize("sizes", [(200, 200), (2000, 200), (200, 2000)])
def test_noise_moves_a_small_table_no_more_often_than_asked_for(sizes):
    hits = sum(bool(moved(table(2 * seed, sizes[0]), table(2 * seed + 1, sizes[1]))) for seed in range(25))
    assert hits <= 3  # 0.25 are expected at alpha = 0.01


def test_the_index_of_a_number_is_that_of_equally_filled_bins():
    was, now = table(0), table(1).assign(load=lambda table: table["load"] + 0.3)
    index = drift_table(was, now).loc["load", "psi"]
    assert index == pytest.approx(population_stability_index(was["load"], now["load"]))


def test_a_profile_of_chunks_is_that_of_the_whole_table():
    was, now = profile_of(table(0)), table(1)
    whole, chunked = was.count(now), was.count(now[:700]) + was.count(now[700:])
    assert chunked.rows == whole.rows
    for name, one in whole.columns.items():
        other = chunked.columns[name]
        assert (other.counts, other.missing) == (one.counts, one.missing)
        assert (other.mean, other.sd) == pytest.approx((one.mean, one.sd), nan_ok=True)
    parts = (now[start : start + 300] for start in range(0, len(now), 300))
    assert drift_table(was, parts)["psi"].to_dict() == drift_table(was, now)["psi"].to_dict()


def test_a_stored_profile_gives_the_same_table(tmp_path):
    was, now = profile_of(table(0)), table(1)
    was.save(tmp_path / "profile.json")
    pd.testing.assert_frame_equal(drift_table(read_profile(tmp_path / "profile.json"), now), drift_table(was, now))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not readable as JSON"),
        ("[]", "holds a list"),
        ('{"rows": 3}', "format = None: must be 'lepton profile 1'"),
        ('{"format": "lepton profile 2"}', "format = 'lepton profile 2': must be"),
        ('{"format": "lepton profile 1", "rows": 3}', "is no whole profile"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_by_its_name(tmp_path, text, said):
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(InputError, match=rf"profile\.json.*{said}"):
        read_profile(tmp_path / "profile.json")


@pytest.mark.parametrize("change", [{"counts": [1]}, {"bins": ["a"] * 11}, {"kind": "list"}, {"counts": [-1] * 12}])
def test_a_profile_that_contradicts_itself_is_refused(tmp_path, change):
    profile_of(table(0)).save(tmp_path / "profile.json")
    content = json.loads((tmp_path / "profile.json").read_text())
    content["columns"]["load"] |= change
    (tmp_path / "profile.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="is no whole profile"):
        read_profile(tmp_path / "profile.json")


def test_what_is_private_is_in_no_profile_that_leaves_the_house():
    private = Private(("email",))
    rows = pd.DataFrame({"email": ["jane@example.org", "x@y.de"] * 20, "asked_by": ["jane@example.org", "nobody"] * 20})
    private.cover(rows)
    told = profile_of(rows).without(("email",), private.scrub)
    assert set(told.columns) == {"asked_by"}
    assert told.columns["asked_by"].bins == ("[private]", "nobody")


def test_what_cannot_be_compared_is_named_with_the_reason():
    rows = 100
    was = pd.DataFrame(
        {
            "number": range(rows),
            "kind": ["a", "b"] * 50,
            "gone": range(rows),
            "empty": np.nan,
            "list": [[one] for one in range(rows)],
            "time": pd.date_range("2026-01-01", periods=rows),
            "id": [f"id {one}" for one in range(rows)],
        }
    )
    found = drift_table(was, was.drop(columns="gone").assign(kind=1.5, new=1))
    assert list(found.index) == ["number"]
    assert found.attrs["left_out"] == {
        "gone": "not in the current table",
        "kind": "a category in the reference and float64 now",
        "empty": "no finite value",
        "list": "100 distinct values among 100: an id or free text",
        "time": "datetime64[us]: neither numbers nor categories; times move on by themselves",
        "id": "100 distinct values among 100: an id or free text",
        "new": "not in the reference",
    }


def test_a_table_that_shares_no_column_is_refused():
    with pytest.raises(InputError, match="has none of the reference's columns load"):
        drift_table(table(0)[["load"]], table(1)[["price"]])
    with pytest.raises(InputError, match="has no rows"):
        drift_table(table(0), iter(()))


@pytest.mark.parametrize("limits", [{"psi": 0}, {"alpha": 1}])
def test_limits_out_of_range_are_refused(limits):
    with pytest.raises(InputError, match=next(iter(limits))):
        drift_table(table(0), table(1), **limits)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_few_rows_are_compared_and_call_nothing_moved(rows):
    assert moved(table(0, 200), table(1, 200).head(rows)) == []
