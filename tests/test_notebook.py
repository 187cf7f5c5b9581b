import json
import subprocess
import sys
from datetime import date

import nbformat
import numpy as np
import pandas as pd
import pytest
from helpers import PATIENCE_S, ROOT, lepton, write_notebook
from jupyter_client.manager import run_kernel

from lepton_kit import notebook
from lepton_kit.errors import ExpectationFailed, InputError
from lepton_kit.reports.story import story_html
from lepton_kit.runs.manifest import all_runs


@pytest.fixture
def shown(monkeypatch):
    """What a cell displays."""
    bundles = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: bundles.append(bundle))
    return bundles


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (np.float64(0.5), 0.5), (np.int64(3), 3), (np.bool_(True), True), (np.array([1, 2]), [1, 2]),
        (float("nan"), "nan"), (float("inf"), "inf"), (date(2008, 1, 2), "2008-01-02"), (None, None),
        ({"a": (1, 2)}, {"a": [1, 2]}), ({3, 1, 2}, [1, 2, 3]),
        (np.datetime64("2008-01-02T03", "ns"), "2008-01-02T03:00:00"), (np.timedelta64(90, "s"), "P0DT0H1M30S"),
        (np.array(["2008-01-02", "NaT"], dtype="datetime64[ns]"), ["2008-01-02T00:00:00", "NaT"]),
        (pd.Series(pd.to_datetime(["2008-01-02"])), ["2008-01-02T00:00:00"]), (pd.Series([1.5, 2]), [1.5, 2.0]),
        (pd.DataFrame({"a": [1, 2], "b": ["x", None]}), {"columns": ["a", "b"], "rows": [[1, "x"], [2, "nan"]]}),
    ],
)  # fmt: skip
def test_a_result_is_stored_as_plain_json(value, stored, shown):
    notebook.record("x", value)
    assert shown[0][notebook.RESULT]["value"] == stored
    json.dumps(shown[0], allow_nan=False)


LATENCIES = pd.DataFrame({"service": ["a", "a", "b"], "day": [1, 2, 1], "ms": [10.0, 30.0, 500.0]})


@pytest.mark.parametrize(
    ("table", "columns", "rows"),
    [
        (LATENCIES.groupby("service")["ms"].mean().to_frame(), ["service", "ms"], [["a", 20.0], ["b", 500.0]]),
        (LATENCIES["service"].value_counts(), ["service", "count"], [["a", 2], ["b", 1]]),
        (LATENCIES.groupby(["service", "day"])["ms"].max(), ["service", "day", "ms"],
         [["a", 1, 10.0], ["a", 2, 30.0], ["b", 1, 500.0]]),
        (LATENCIES["ms"].describe().head(2), ["index", "ms"], [["count", 3.0], ["mean", 180.0]]),
        (pd.Series([1.5], index=pd.to_datetime(["2008-01-02"])), ["index", "value"], [["2008-01-02T00:00:00", 1.5]]),
        (pd.DataFrame({"n": [1, 2]}, index=[2007, 2008]), ["index", "n"], [[2007, 1], [2008, 2]]),
        (LATENCIES.pivot_table(index="service", columns="day", values="ms", aggfunc=["max"]),
         ["service", "max 1", "max 2"], [["a", 10.0, 30.0], ["b", 500.0, "nan"]]),
        (LATENCIES[["ms"]].groupby(pd.cut(LATENCIES["ms"], [0, 100]), observed=True).mean(), ["ms", "ms"],
         [["(0, 100]", 20.0]]),
        (LATENCIES.set_index("service", drop=False)[["service", "ms"]].head(1), ["service", "ms"], [["a", 10.0]]),
        (LATENCIES.sort_values("ms", ascending=False)[["ms"]], ["ms"], [[500.0], [30.0], [10.0]]),
        (LATENCIES[["ms"]].tail(1), ["ms"], [[500.0]]),
    ],
)  # fmt: skip
def test_the_labels_of_a_tables_rows_are_recorded_and_shown(table, columns, rows, shown):
    notebook.record("x", table)
    assert shown[0][notebook.RESULT]["value"] == {"columns": columns, "rows": rows}
    for label in (str(columns[0]), str(rows[0][0]).partition("T")[0].removesuffix(".0")):
        assert label in shown[0]["text/plain"]
        assert label in shown[0]["text/html"].replace("&lt;", "<")


@pytest.mark.parametrize("value", [{1: "a", "1": "b"}, {"deep": [{None: 1, "None": 2}]}])
def test_keys_that_would_fall_together_are_refused(value, shown):
    with pytest.raises(InputError, match="are the same in JSON"):
        notebook.record("x", value)


def test_a_result_may_have_a_title_a_direction_and_be_a_headline(shown):
    notebook.record("p50", 3.2, unit="ms", title="Median latency", headline=True, better="lower")
    notebook.record("p50", 3.2, unit="ms")
    titled, bare = (bundle[notebook.RESULT] for bundle in shown)
    assert (titled["title"], titled["headline"], titled["better"]) == ("Median latency", True, "lower")
    assert not {"title", "headline", "better"} & set(bare)  # what is not said leaves no trace in committed outputs
    assert "Median latency" in shown[0]["text/html"]
    assert shown[0]["text/plain"] == "p50 = 3.2 ms"
    with pytest.raises(InputError, match="better = 'smaller': must be 'higher' or 'lower'"):
        notebook.record("p50", 3.2, better="smaller")


def test_several_results_are_recorded_by_name_and_one_of_them_is_the_headline(shown):
    notebook.record(cause="data", probability=0.97, rtol=1e-2, headline="probability")
    first, second = (bundle[notebook.RESULT] for bundle in shown)
    assert (first["name"], first["value"], second["name"], second["value"]) == ("cause", "data", "probability", 0.97)
    assert (first["rtol"], second["rtol"], second["headline"]) == (1e-2, 1e-2, True)
    assert "headline" not in first
    with pytest.raises(InputError, match="names no result"):
        notebook.record()
    with pytest.raises(InputError, match="not both"):
        notebook.record("x", 1, cause="data")


def test_a_result_of_a_strange_type_is_refused_by_name(shown):
    with pytest.raises(InputError, match="result 'x' is a object"):
        notebook.record("x", object())


def test_sentences_are_paragraphs_of_text_and_an_empty_one_is_none(shown):
    notebook.say("2 of 3 moved.", "", "<script>alert(1)</script>")
    paragraphs = "<p>2 of 3 moved.</p><p>&lt;script&gt;alert(1)&lt;/script&gt;</p>"
    assert shown == [{"text/plain": "2 of 3 moved.\n<script>alert(1)</script>", "text/html": paragraphs}]


def test_text_that_looks_like_markup_is_shown_as_text(shown):
    notebook.record("<b>", "<script>alert(1)</script>")
    notebook.expect(True, "<i>", value="<script>")
    notebook.record("t", pd.DataFrame({"<b>": ["<script>"]}))
    for bundle in shown:
        assert "<script>" not in bundle["text/html"]


def test_a_broken_expectation_shows_its_values_and_raises(shown):
    with pytest.raises(ExpectationFailed, match=r"expected: few; got n = 3"):
        notebook.expect(False, "few", n=3)
    assert shown[0][notebook.EXPECTATION]["passed"] is False


@pytest.mark.parametrize("name", ["../x", "/etc/x", "", "."])
def test_an_artifact_stays_in_the_runs_folder(name, project):
    with pytest.raises(InputError, match="inside the run's artifacts folder"):
        notebook.artifact(name)


def test_in_jupyterlab_artifacts_lie_under_the_notebooks_name(project, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/01-data-cleaning.ipynb")
    assert notebook.artifact("a.csv") == project / "runs/interactive/01-data-cleaning/artifacts/a.csv"
    assert notebook.run_id() == "interactive"


def test_a_notebook_run_by_plain_jupyter_holds_its_results(project):
    path = write_notebook(project / "notebooks/n.ipynb", ["lk.record('x', 1.5, unit='USD')"])
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    outputs = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
    assert [p["value"] for p in notebook.payloads(outputs, notebook.RESULT)] == [1.5]


ENDING = ["x = 1", "if x:\n    lk.end('nothing to deploy')\nx = 2", "lk.record('x', x)", "!echo on"]


def test_a_notebook_that_ends_early_succeeds_and_each_later_cell_says_why_it_did_not_run(project):
    """In a run, whose check compares them with nbval, and on its page; in nbconvert, which stands for plain Jupyter."""
    path = write_notebook(project / "notebooks/n.ipynb", ENDING)
    made = lepton("run", "notebooks/n.ipynb", project=project)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "ended early: nothing to deploy" in made.stdout
    (run,) = all_runs(project)
    assert (run.status, run.ended_early, run.results, run.error) == ("succeeded", "nothing to deploy", {}, None)
    assert [cell.status for cell in run.cells] == ["completed"] * 3 + ["not run"] * 2
    assert "nothing to deploy" in lepton("show", "latest", project=project).stdout
    checked = lepton("check", run.run_id, project=project)
    assert checked.returncode == 0, checked.stdout
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    for executed in (run.folder(project) / "notebook.ipynb", path):
        cells = [cell for cell in nbformat.read(executed, 4).cells if cell.cell_type == "code"]
        shown = [[output.get("data", {}).get("text/plain") for output in cell.outputs] for cell in cells]
        assert shown == [[], [], ["Ended here: nothing to deploy"], *[["Not run: nothing to deploy"]] * 2]
        page = story_html(nbformat.read(executed, 4))
        assert page.count("nothing to deploy</p>") == 3
        assert "was not run" not in page


def test_by_hand_the_first_cell_or_the_one_that_ended_goes_on_after_the_end():
    with run_kernel() as client:

        def run(source):
            reply = client.execute_interactive(source, timeout=PATIENCE_S, output_hook=told.append)
            assert reply["content"]["status"] == "ok"

        told = []
        for source in ("import lepton_kit as lk; n = 1", "if n:\n    lk.end('so')", "n = 2"):
            run(source)
        run("import lepton_kit as lk; n = 1")
        run("if n:\n    lk.end('so')")
        run("if n:\n    lk.end('so')")
        run("import lepton_kit as lk; n = 1")
        run("print(n)")
    assert [one["content"]["text"] for one in told if one["msg_type"] == "stream"] == ["1\n"]
    shown = [one["content"]["data"]["text/plain"] for one in told if one["msg_type"] == "display_data"]
    assert shown == ["Ended here: so", "Not run: so", "Ended here: so", "Ended here: so"]


def test_importing_the_kit_is_cheap():
    """Notebooks and the command line import it first: it must not bring pandas, torch, papermill or IPython along."""
    heavy = ("pandas", "torch", "papermill", "IPython", "nbformat")
    code = f"import sys, lepton_kit, lepton_kit.cli; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
