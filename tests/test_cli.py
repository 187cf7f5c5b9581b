import json
import shutil

import nbformat
import pytest
import typer
from helpers import copy_folders, lepton, lepton_here, write_notebook
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from repairs import proposal, propose

import lepton_kit
from lepton_kit.cli import app
from lepton_kit.errors import InputError
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.runs.references import resolve


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
    assert run_id in lepton_here("runs", project=story).stdout
    shown = lepton_here("show", "story", project=story).stdout
    assert "14 days" in shown
    assert "a short window" in shown
    assert json.loads(lepton_here("show", run_id[-6:], "--json", project=story).stdout)["run_id"] == run_id


def test_notebooks_and_their_parameters_are_listed(story):
    assert "The story" in lepton_here("list", project=story).stdout
    assert "window, days" in lepton_here("params", "story", project=story).stdout
    schema = json.loads(lepton_here("params", "notebooks/story.ipynb", "--json-schema", project=story).stdout)
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
    assert "code cell 4: ExpectationFailed: expected: a short window; got days = 12" in made.stdout


def test_cells_are_counted_as_the_notebooks_writer_sees_them_whether_values_were_given_or_not(story):
    """The cell that papermill adds for values given with -p is none of the writer's."""
    cells = ["1 / wanted", "2"]
    path = write_notebook(story / "notebooks/fails.ipynb", cells, "wanted: int = 0")
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    number = 1 + [cell.source for cell in code].index("1 / wanted")
    for words in ([], ["-p", "wanted", "0"]):
        made = lepton("run", "fails", *words, "--events", project=story)
        events = [json.loads(line) for line in made.stdout.splitlines()]
        assert {event["cells"] for event in events if event["kind"] == "cell_started"} == {len(code)}
        assert [event["cell"] for event in events if event["kind"] == "cell_ended"][-1] == number
        run = json.loads(lepton_here("show", "latest", "--json", project=story).stdout)
        assert run["error"]["cell"] == number
        assert {cell["number"]: cell["status"] for cell in run["cells"]}[number + 1] == "not run"


def test_the_version_is_told(story):
    assert lepton("--version", project=story).stdout == f"lepton {lepton_kit.__version__}\n"


def test_a_notebook_is_known_by_the_beginning_of_its_name_and_a_misspelt_one_is_guessed(story):
    write_notebook(story / "notebooks/storage.ipynb", ["1"])
    write_notebook(story / "runbooks/99-heal.ipynb", ["1"], "days: int = 5")
    assert "days" in lepton_here("params", "99", project=story).stdout
    assert lepton_here("params", "story", project=story).returncode == 0  # a whole name is none's beginning
    several = lepton_here("params", "stor", project=story)
    assert (several.returncode, "matches 2 notebooks: storage, story" in several.stderr) == (2, True)
    for given in ("stoory", "notebooks/stoory.ipynb"):
        wrong = lepton_here("run", given, project=story)
        assert (wrong.returncode, "did you mean 'story'?" in wrong.stderr) == (2, True)
    assert "did you mean" not in lepton_here("run", "zzz", project=story).stderr


def test_after_a_run_its_first_results_are_told(story):
    write_notebook(story / "notebooks/found.ipynb", ["lk.record('cause', 'data')", "lk.record('p95', 12.5, 'ms')"])
    made = lepton("run", "found", "story", project=story)
    assert "Cause: data" in made.stdout
    assert "p95: 12.5 ms" in made.stdout
    assert "double: 10 days" in made.stdout


def test_a_run_is_known_by_its_short_id_to_every_command_and_several_that_are_meant_are_named(story):
    write_notebook(story / "notebooks/left.ipynb", ["open(lk.artifact('text.txt'), 'w').write('x')"])
    assert lepton("run", "left", project=story).returncode == 0
    [run_id] = (path.parent.name for path in (story / "runs").glob("*/manifest.json"))
    short = run_id.rpartition("-")[2]
    listed = lepton_here("runs", project=story, COLUMNS="80").stdout.splitlines()
    assert listed[1].split()[0] == short
    for words in (["show", short], ["show", run_id[:-3]], ["diff", short, short]):
        assert lepton_here(*words, project=story).returncode == 0, words
    assert resolve(f"run:{short}/text.txt", story).path.read_text() == "x"
    twin = story / "runs" / run_id.replace("-left-", "-other-")
    shutil.copytree(story / "runs" / run_id, twin)
    (twin / "manifest.json").write_text((twin / "manifest.json").read_text().replace(run_id, twin.name))
    commands = ("show", "check", "verify", "resume", "publish")
    for words in (*([command, short] for command in commands), ["diff", short, run_id]):
        wrong = lepton_here(*words, project=story)
        assert (wrong.returncode, run_id in wrong.stderr, twin.name in wrong.stderr) == (2, True, True), words
    with pytest.raises(InputError, match="matches 2"):
        resolve(f"run:{short}/text.txt", story)


def test_lists_of_runs_have_one_line_for_each(story):
    write_notebook(story / "notebooks/long.ipynb", ["1"], title="A title that goes on and on " * 9)
    assert lepton("run", "long", "story", project=story).returncode == 0
    for columns in (80, 200):
        listed = lepton_here("runs", project=story, COLUMNS=str(columns)).stdout.splitlines()
        assert len(listed) == 3
        assert max(map(len, listed)) <= columns


@pytest.fixture
def listed(story):
    """A project with an objective, a run, and a repair that waits."""
    with (story / "lepton.toml").open("a") as settings:
        settings.write("[services.goog]\n")
    copy_folders(story, "slo")
    (story / "telemetry").mkdir()
    propose(Queue(story), proposal("data", "the policy of this cause is to ask"))
    assert lepton_here("run", "story", project=story).returncode == 0
    return story


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("list", "title", "The story"), ("runs", "status", "succeeded"), ("approve", "cause", "data"),
        ("incidents", "name", "Known"), ("slo list", "service", "goog"), ("slo status", "budget_left", None),
        ("doctor", "state", "absent"),
    ],
)  # fmt: skip
def test_what_is_listed_can_be_had_as_json(listed, words, name, value):
    made = lepton_here(*words.split(), "--json", project=listed)
    found = json.loads(made.stdout)
    assert any(one[name] == value for one in found), made.stdout


def test_every_command_that_lists_has_json():
    whole = typer.main.get_command(app)
    commands = {**whole.commands, **{f"slo {name}": one for name, one in whole.commands["slo"].commands.items()}}
    lists = [name for name, one in commands.items() if (one.help or "").startswith("List ")]
    assert {"list", "runs", "incidents", "notify", "approve", "slo list"} <= set(lists)
    assert [name for name in lists if "as_json" not in {one.name for one in commands[name].params}] == []


@pytest.mark.parametrize("with_jedi", [True, False])
def test_completion_offers_the_kits_own_names_alone(with_jedi):
    shell = InteractiveShell.instance()
    shell.run_cell("import lepton_kit as lk")
    shell.Completer.use_jedi = with_jedi
    with provisionalcompleter():
        offered = [found.text.lstrip(".") for found in shell.Completer.completions("lk.", 3)]
    assert sorted(offered) == sorted(lepton_kit.__all__)


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
        (["run", "gone"], "notebook 'gone': no such file, and no notebook of that name (there are: 00-tour, "),
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
    assert json.loads(lepton_here("show", "read", "--json", project=story).stdout)["parameters"] == {
        "table": "data/t.csv"
    }
    write_notebook(story / "notebooks/word.ipynb", ["lk.record('word', word)"], "word: str = 'x'")
    lepton("run", "word", "-p", "word", "t.csv", project=story / "data")
    assert json.loads(lepton_here("show", "word", "--json", project=story).stdout)["parameters"] == {"word": "t.csv"}


def test_a_failing_pipeline_is_exit_code_1(story):
    (story / "lepton.toml").write_text("[[pipelines.p.steps]]\nnotebook = 'story'\nparameters = { days = 12 }")
    assert lepton("pipeline", "p", project=story).returncode == 1


def test_outside_of_a_project_the_error_says_what_is_missing(tmp_path):
    made = lepton_here("list", project=tmp_path)
    assert made.returncode == 2
    assert "no lepton.toml" in made.stderr


def test_check_passes_then_names_what_changed(story):
    assert lepton_here("check", "--update", "notebooks/story.ipynb", project=story).returncode == 0
    assert "✓ story: reproduces" in lepton_here("check", project=story).stdout
    path = story / "notebooks/story.ipynb"
    path.write_text(path.read_text().replace("2 * days", "3 * days"))
    made = lepton_here("check", project=story)
    assert made.returncode == 1
    assert "story: double: was 10, now 15" in made.stdout


def test_every_command_is_documented(story):
    shown = lepton("--help", project=story).stdout
    for command in ("list", "run", "params", "runs", "show", "pipeline", "report", "check"):
        assert command in shown
        assert lepton(command, "--help", project=story).returncode == 0
