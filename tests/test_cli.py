import json

import pytest
from helpers import lepton, write_notebook


@pytest.fixture
def story(project):
    cells = ["lk.record('double', 2 * days, unit='days')", "lk.expect(days < 10, 'a short window', days=days)"]
    write_notebook(project / "notebooks/story.ipynb", cells, "days: int = 5  # window, days", title="The story")
    return project


def test_a_notebook_runs_by_its_name_and_everything_about_the_run_can_be_asked(story):
    made = lepton("run", "story", "-p", "days", "7", project=story)
    assert made.returncode == 0, made.stderr
    assert "story: succeeded in" in made.stdout
    (run_id,) = (path.parent.name for path in (story / "runs").glob("*/manifest.json"))
    assert run_id in lepton("runs", project=story).stdout
    shown = lepton("show", "story", project=story).stdout
    assert "14 days" in shown
    assert "a short window" in shown
    assert json.loads(lepton("show", run_id[-6:], "--json", project=story).stdout)["run_id"] == run_id


def test_notebooks_and_their_parameters_are_listed(story):
    assert "The story" in lepton("list", project=story).stdout
    assert "window, days" in lepton("params", "story", project=story).stdout
    schema = json.loads(lepton("params", "notebooks/story.ipynb", "--json-schema", project=story).stdout)
    assert schema["properties"]["days"]["type"] == "integer"


def test_several_notebooks_run_at_once(story):
    made = lepton("run", "story", "story", "-p", "days=3", "--workers", "2", project=story)
    assert made.returncode == 0, made.stderr
    said = [line for line in made.stdout.splitlines() if line.startswith("story: ")]
    assert [line.split()[1] for line in said] == ["started", "started", "succeeded", "succeeded"]


def test_a_sweep_runs_once_for_every_combination(story):
    write_notebook(story / "notebooks/two.ipynb", ["lk.record('both', f'{a}{b}{c}')"], "a: int\nb: str\nc: int = 0")
    words = ["run", "two", "-p", "c", "9", "--sweep", "a=1,2", "--sweep", 'b=x,"y,z"', "--workers", "2"]
    made = lepton(*words, project=story)
    assert made.returncode == 0, made.stderr
    results = [json.loads(path.read_text())["results"]["both"]["value"] for path in story.glob("runs/*/manifest.json")]
    assert sorted(results) == ["1x9", "1y,z9", "2x9", "2y,z9"]


def test_events_are_json_lines_and_nothing_else(story):
    made = lepton("run", "story", "--events", project=story)
    events = [json.loads(line) for line in made.stdout.splitlines()]
    kinds = [event["kind"] for event in events if event["kind"] != "cell_output"]
    assert (kinds[0], kinds[-1]) == ("run_started", "run_ended")
    assert {event["cell"] for event in events if event["kind"] == "cell_ended"} >= set(
        range(1, events[-2]["cells"] + 1)
    )
    assert events[-1]["status"] == "succeeded"


def test_a_failed_run_is_exit_code_1_and_names_the_cell(story):
    made = lepton("run", "story", "-p", "days", "12", project=story)
    assert made.returncode == 1
    assert "code cell 5: ExpectationFailed: expected: a short window; got days = 12" in made.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "story", "-p", "dais", "7"], "did you mean 'days'?"),
        (["run", "story", "-p", "days", "many"], "parameter 'days' = 'many' (from -p): must be int"),
        (["run", "story", "-p", "days"], "no value given"),
        (["run", "story", "-p", "days", "1", "-p", "days", "2"], "given twice"),
        (["run", "story", "-p", "days", "1", "--sweep", "days=1,2"], "given both by -p and by --sweep"),
        (["run", "story", "--sweep", "days"], "write NAME=VALUE,VALUE"),
        (["run", "story", "--sweep", "days=1,2", "--sweep", "days=3"], "swept twice"),
        (["run", "story", "--sweep", "days=1,many"], "parameter 'days' = 'many'"),
        (["run", "gone"], "notebook 'gone': no such file, and no notebook of that name (there are: story)"),
        (["show", "gone"], "none of the 0 runs"),
        (["pipeline", "gone"], "pipeline 'gone'"),
        (["report"], "run a notebook first"),
    ],
)
def test_bad_input_is_one_clear_error_exit_code_2_and_nothing_written(words, message, story):
    before = sorted(story.rglob("*"))
    made = lepton(*words, project=story)
    assert made.returncode == 2
    assert message in made.stderr
    assert "Traceback" not in made.stderr
    assert sorted(story.rglob("*")) == before


def test_a_path_is_taken_from_where_the_person_stands(story):
    (story / "data").mkdir()
    (story / "data/t.csv").write_text("hello")
    write_notebook(
        story / "notebooks/read.ipynb", ["lk.record('text', open(lk.input(table)).read())"],
        "from pathlib import Path\ntable: Path = 'x.csv'",
    )  # fmt: skip
    made = lepton("run", "read", "-p", "table", "t.csv", project=story / "data")
    assert made.returncode == 0, made.stdout + made.stderr
    assert json.loads(lepton("show", "read", "--json", project=story).stdout)["parameters"] == {"table": "data/t.csv"}
    write_notebook(story / "notebooks/word.ipynb", ["lk.record('word', word)"], "word: str = 'x'")
    lepton("run", "word", "-p", "word", "t.csv", project=story / "data")
    assert json.loads(lepton("show", "word", "--json", project=story).stdout)["parameters"] == {"word": "t.csv"}


def test_a_failing_pipeline_is_exit_code_1(story):
    (story / "lepton.toml").write_text("[[pipelines.p.steps]]\nnotebook = 'story'\nparameters = { days = 12 }")
    assert lepton("pipeline", "p", project=story).returncode == 1


def test_outside_of_a_project_the_error_says_what_is_missing(tmp_path):
    made = lepton("list", project=tmp_path)
    assert made.returncode == 2
    assert "no lepton.toml" in made.stderr


def test_check_passes_then_names_what_changed(story):
    assert lepton("check", "--update", "notebooks/story.ipynb", project=story).returncode == 0
    assert "✓ story: reproduces" in lepton("check", project=story).stdout
    path = story / "notebooks/story.ipynb"
    path.write_text(path.read_text().replace("2 * days", "3 * days"))
    made = lepton("check", project=story)
    assert made.returncode == 1
    assert "story: double: was 10, now 15" in made.stdout


def test_every_command_is_documented(story):
    shown = lepton("--help", project=story).stdout
    for command in ("list", "run", "params", "runs", "show", "pipeline", "report", "check"):
        assert command in shown
        assert lepton(command, "--help", project=story).returncode == 0
