"""Results of drills: their file, their scores, and the page that is made of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from helpers import ROOT, copy_folders, lepton_here
from test_reports import facts_of, words_of

from lepton_kit import __version__
from lepton_kit.errors import InputError
from lepton_kit.ops.drill_pages import ENOUGH, page_blocks, publish_drills, read_drills
from lepton_kit.ops.drill_results import EARLIER, FORMAT, newest_results, read_results, write_results
from lepton_kit.ops.drill_scores import SCORED, confusion, drill_rows, reliability, scores, times
from lepton_kit.ops.drills import Drilled
from lepton_kit.reports.blocks import Table, Words
from lepton_kit.reports.publish import unpublish
from lepton_kit.reports.site import build_site

HOSTILE = "<script>document.title='owned'</script> | `x` ``` {{< env HOME >}} ::: [a](b)"
GOOD = Drilled(
    fault="nulls", severity=0.5, seed=7, kind="prices", causes=("data",), alert="GoogErrorsBudgetBurn",
    detected_after=10.0, cause="data", also=(), probability=0.97, confidence="high", diagnosed_after=12.0,
    remedy="repair-data", actions=("filled",), recovery="recovered", recovered_after=60.0, verdict="recovered",
)  # fmt: skip
CALM = dataclasses.replace(
    GOOD, fault="surge", severity=0.4, causes=("none",), alert="", detected_after=None, cause="none", remedy="",
    actions=(), recovery="", recovered_after=None, verdict="left alone",
)  # fmt: skip
LOST = dataclasses.replace(
    GOOD, fault="lost-worker", causes=("compute",), detected_after=90.0, cause="unknown", probability=0.4, actions=(),
    recovery="", recovered_after=None, verdict="asked a person", error="no worker to restart",
)  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with an empty report site, rendered by nbconvert."""
    monkeypatch.setenv("LEPTON_QUARTO", "none")
    copy_folders(tmp_path, "reports")
    (tmp_path / "lepton.toml").write_text("")
    return tmp_path


def results(project: Path, drilled: list[Drilled], seed: int = 3, **more) -> Path:
    return write_results(drilled, project / "drills", seed, live=False, **more)


def test_results_of_the_earlier_format_are_read_with_all_times_since_the_fault_began(tmp_path):
    path = results(tmp_path, [GOOD, dataclasses.replace(CALM, verdict="acted without an alert")])
    content = json.loads(path.read_text()) | {"format": EARLIER}
    content["drills"][0]["recovered_after"] = 50.0  # since the alert, 10 s after the fault
    content["drills"][1]["verdict"] = "repaired"
    path.write_text(json.dumps(content))
    first, second = read_results(path).drills
    assert (first.recovered_after, first.time_to_recover) == (60.0, 50.0)
    assert (second.recovered_after, second.verdict) == (None, "acted without an alert")


def test_results_are_read_as_they_were_written(tmp_path):
    marked = dataclasses.replace(GOOD, extra={SCORED: {"cause": "model", "also": [], "probability": 0.6}})
    path = results(tmp_path, [marked, CALM], command="lepton drill", faults={"nulls": "missing values"})
    held = read_results(path)
    assert held.drills == (marked, CALM)
    assert (held.kind, held.seed, held.kit, held.command) == ("simulated", 3, __version__, "lepton drill")
    assert held.faults == {"nulls": "missing values"}
    assert json.loads(json.dumps(held.plain())) == json.loads(path.read_text())


def test_results_that_do_not_tell_when_they_were_made_have_the_time_of_their_name(tmp_path):
    path = tmp_path / "20261125T101500Z-live-0.json"
    path.write_text(json.dumps({"format": FORMAT, "kind": "live", "seed": 0, "drills": [GOOD.plain()]}))
    assert f"{read_results(path).made:%Y-%m-%d %H:%M}" == "2026-11-25 10:15"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not results of drills"),
        ('{"format": "other"}', "`format` must be"),
        (json.dumps({"format": FORMAT, "kind": "real", "seed": 0, "drills": []}), "kind: Input should be"),
        (json.dumps({"format": FORMAT, "kind": "live", "seed": 0, "drills": [{"fault": "x"}]}), r"drills\.0\."),
    ],
)
def test_a_file_that_holds_no_results_is_an_error_that_names_it(tmp_path, content, said):
    path = tmp_path / "20261125T101500Z-live-0.json"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"{path.name}: .*{said}"):
        read_results(path)


def test_the_newest_results_are_taken_and_without_any_the_error_says_how_to_make_them(tmp_path):
    with pytest.raises(InputError, match="lepton drill"):
        newest_results(tmp_path)
    for name in ("20261125T101500Z-live-0.json", "20261124T235900Z-simulated-1.json"):
        (tmp_path / name).write_text("{}")
    assert newest_results(tmp_path).name == "20261125T101500Z-live-0.json"


def test_scores_count_what_was_named():
    pair = dataclasses.replace(
        GOOD, fault="nulls+cpu-taken", causes=("compute", "data"), cause="data", also=("compute",)
    )
    wrong = dataclasses.replace(CALM, cause="model", verdict="false repair")
    rows = drill_rows([GOOD, pair, LOST, CALM, wrong])
    found = scores(rows)
    assert found["right remedy first"] == 2 / 3  # of two at once either counts
    assert found["false repairs on benign"] == 1 / 2
    assert found["abstained"] == 1 / 5
    assert found["accuracy"] == 3 / 5
    matrix = confusion(rows)
    assert matrix.to_numpy().sum() == 5
    assert (matrix.loc["data", "data"], matrix.loc["compute", "unknown"], matrix.loc["none", "model"]) == (2, 1, 1)
    # data 1.0; compute, never named, 0; none: precision 1, recall 1/2
    assert found["macro-F1"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert times(rows)["detect"].median == 10.0


def test_what_one_named_that_had_not_seen_the_fault_is_scored_in_place_of_what_was_done():
    rows = drill_rows([dataclasses.replace(GOOD, extra={SCORED: {"cause": "model", "also": [], "probability": 0.6}})])
    assert scores(rows)["accuracy"] == 0
    assert rows.loc[0, ["named", "probability"]].tolist() == ["model", 0.6]


def test_stated_probabilities_are_held_against_what_was_right():
    sure = [dataclasses.replace(GOOD, probability=0.97, cause=cause) for cause in ("data", "data", "data", "model")]
    table = reliability(drill_rows([*sure, LOST]))  # where nothing was named, nothing was stated
    assert table[["stated", "right", "drills"]].to_numpy().tolist() == [[pytest.approx(0.97), 0.75, 4]]


def test_without_a_drill_to_take_a_share_of_a_score_is_not_known(tmp_path):
    drills = read_drills(results(tmp_path, [CALM]))
    assert np.isnan(drills.scores["right remedy first"])
    table = next(block for block in page_blocks(drills) if isinstance(block, Table) and block.head[0] == "Score")
    assert {row[0]: list(row[1:4]) for row in table.rows}["right remedy first"] == ["–", "at least 0.95", "not known"]


@pytest.mark.parametrize(("count", "is_drawn"), [(ENOUGH - 1, False), (ENOUGH, True)])
def test_a_curve_is_drawn_of_enough_drills_only(tmp_path, count, is_drawn):
    blocks = page_blocks(read_drills(results(tmp_path, [GOOD] * count)))
    words = " ".join(block.text for block in blocks if isinstance(block, Words))
    assert ("Too few to tell" not in words) == is_drawn


def page_of(project: Path, path: Path) -> BeautifulSoup:
    publish_drills(project, path)
    page = build_site(project).folder / "drills" / path.stem / "index.html"
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def test_a_page_says_what_the_drills_came_to_and_why_some_did_not_end_well(project):
    path = results(project, [GOOD, CALM, LOST], faults={"nulls": "values go missing"}, command="lepton drill nulls")
    page = page_of(project, path)
    facts = {name: words_of(value) for name, value in facts_of(page).items()}
    assert facts["Drills"] == "3, of 3 types"
    assert facts["Ended"] == "2 as they should"
    assert facts["Version of the kit"] == __version__
    text = words_of(page)
    assert "Of 2 with a fault, 1 had the right remedy named first." in text
    assert "Short of its target: macro-F1, right remedy first." in text
    assert "values go missing" in text
    assert "lepton drill nulls" in text
    tables = {
        table.th.text: [words_of(row) for row in table.select("tbody tr")] for table in page.select("table.files")
    }
    [bad] = tables["Drill"]
    assert bad.startswith(
        "lost-worker, severity 0.50, seed 7 compute GoogErrors unknown (0.40) nothing asked a person:"
    )
    assert bad.endswith("the evidence did not decide; no worker to restart")
    assert tables["True cause"][0] == "data 1 0 0 0 0"
    [figure] = page.select("figure img")
    assert "of 1 drills whose true cause was compute, there were named 1 unknown" in figure["alt"]


def test_a_drill_page_is_listed_and_taken_away_again(project):
    old, new = (results(project, [GOOD] * count, seed=count) for count in (1, 2))
    for path in (old, new):
        publish_drills(project, path)
    listing = BeautifulSoup((build_site(project).folder / "drills.html").read_text(), "html.parser")
    links = [link["href"] for link in listing.select("main a[href$='index.html']")]
    assert links == [f"drills/{path.stem}/index.html" for path in (new, old)]
    assert "2 of 2" in listing.text
    unpublish(project, [old.stem])
    site = build_site(project).folder
    assert [folder.name for folder in (site / "drills").iterdir()] == [new.stem]
    assert old.stem not in "".join(page.read_text() for page in site.glob("*.html"))


def test_the_same_results_give_the_same_page_which_is_not_rendered_again(project):
    path = results(project, [GOOD, LOST])
    publish_drills(project, path)
    assert build_site(project).rendered == (f"drills/{path.stem}",)
    publish_drills(project, path)
    assert build_site(project).rendered == ()


def test_text_of_a_fault_never_becomes_markup(project):
    evil = dataclasses.replace(LOST, fault=HOSTILE, error=HOSTILE, actions=(HOSTILE,), alert=HOSTILE)
    page = page_of(project, results(project, [evil, GOOD], faults={HOSTILE: HOSTILE}, command=HOSTILE))
    assert not [script for script in page.select("script") if "owned" in script.text]
    assert page.title.text.startswith("2 simulated drills")
    assert words_of(page).count("<script>document.title='owned'</script>") >= 4


def test_what_may_be_taken_along_tells_nothing_of_the_folders_of_whoever_made_it(project):
    path = results(project, [dataclasses.replace(GOOD, extra={"project": "/home/kim/secret"})])
    publish_drills(project, path)
    held = (build_site(project).folder / "drills" / path.stem / "drills.json").read_text()
    assert "/home/kim" not in held
    assert len(json.loads(held)["drills"]) == 1


@pytest.mark.parametrize(
    ("drilled", "name", "said"), [([], "x.json", "holds no drill"), ([GOOD], "a b.json", "its name")]
)
def test_results_that_give_no_page_are_an_error(project, drilled, name, said):
    path = results(project, drilled).rename(project / "drills" / name)
    with pytest.raises(InputError, match=said):
        publish_drills(project, path)
    assert not (project / "reports" / "drills").exists()


def test_the_command_publishes_the_newest_results_or_those_that_are_named(project):
    (project / "slo").symlink_to(ROOT / "slo")
    made = lepton_here("drill", "nulls", "--seed", "4", project=project)
    [path] = (project / "drills").glob("*.json")
    assert f"lepton publish --drills drills/{path.name}" in made.stdout
    held = read_results(path)
    assert held.command.split()[:3] == ["lepton", "drill", "nulls"]
    assert list(held.faults) == ["nulls"]
    assert lepton_here("publish", "--drills", project=project, LEPTON_QUARTO="none").returncode == 0
    assert (project / "reports/_site/drills" / path.stem / "index.html").is_file()
    assert lepton_here("publish", "--drills", "missing.json", project=project).returncode == 2
    taken = lepton_here("unpublish", path.stem, project=project, LEPTON_QUARTO="none")
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert not (project / "reports/_site/drills" / path.stem).exists()
