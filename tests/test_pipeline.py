import pytest
from helpers import write_notebook

from lepton_kit.errors import InputError
from lepton_kit.project.pipeline import find_pipeline, run_pipeline
from lepton_kit.runs.runner import Request, prepare, run_notebook

TOML = """
[[pipelines.two.steps]]
notebook = "notebooks/make.ipynb"
parameters = {{ number = {number} }}
[[pipelines.two.steps]]
notebook = "notebooks/use.ipynb"
"""
USE = "from pathlib import Path\ntext: Path = 'run:make/number.txt'"


@pytest.fixture
def two(project):
    write_notebook(
        project / "notebooks/make.ipynb", ["lk.artifact('number.txt').write_text(str(number // 10))"], "number: int = 0"
    )
    write_notebook(project / "notebooks/use.ipynb", ["lk.record('text', open(lk.input(text)).read())"], USE)
    set_number(project, 11)
    return project


def set_number(project, number):
    (project / "lepton.toml").write_text(TOML.format(number=number))


def skipped(project, **options):
    return [step.skipped for step in run_pipeline("two", project, **options)]


def test_unchanged_steps_are_skipped_unless_forced(two):
    assert skipped(two) == [False, False]
    assert skipped(two) == [True, True]
    assert skipped(two, force=True) == [False, False]


def test_a_changed_parameter_runs_the_step_again_and_an_equal_artifact_spares_the_next(two):
    run_pipeline("two", two)
    set_number(two, 12)  # the same artifact comes out
    assert skipped(two) == [False, True]
    set_number(two, 29)
    steps = run_pipeline("two", two)
    assert [step.skipped for step in steps] == [False, False]
    assert steps[-1].run.results["text"].value == "2"


def test_a_changed_notebook_or_a_lost_artifact_runs_the_step_again(two):
    for damage in (lambda file: file.unlink(), lambda file: file.write_text("666")):
        steps = run_pipeline("two", two)
        damage(steps[0].run.folder(two) / "artifacts/number.txt")
        assert skipped(two) == [False, True]
    write_notebook(two / "notebooks/use.ipynb", ["lk.record('text', 'always')"], USE)
    assert skipped(two) == [True, False]


def test_a_step_reads_what_its_own_pipeline_made(two):
    run_pipeline("two", two)
    run_notebook(Request(two / "notebooks/make.ipynb", {"number": 99}), two)  # somebody else's, and newer
    steps = run_pipeline("two", two)
    assert [step.skipped for step in steps] == [True, True]
    assert steps[-1].run.results["text"].value == "1"


def test_a_step_whose_other_work_is_missing_runs_again(two):
    leaving = "(lk.path('kept')).mkdir(exist_ok=True); lk.artifact('number.txt').write_text('1')"
    write_notebook(two / "notebooks/make.ipynb", [leaving], "number: int = 0")
    toml = (two / "lepton.toml").read_text()
    head = "[[pipelines.two.steps]]\n"
    (two / "lepton.toml").write_text(toml.replace(head, f"{head}leaves = ['kept']\n", 1))
    assert skipped(two) == [False, False]
    assert skipped(two) == [True, True]
    (two / "kept").rmdir()
    assert skipped(two) == [False, True]


def test_a_failed_run_is_never_skipped(two):
    write_notebook(
        two / "notebooks/make.ipynb", ["lk.artifact('number.txt').write_text('1')", "1 / 0"], "number: int = 0"
    )
    assert [step.run.status for step in run_pipeline("two", two)] == ["failed"]
    assert skipped(two) == [False]


def test_a_wrong_parameter_of_the_last_step_is_told_before_the_first_one_runs(two):
    write_notebook(two / "notebooks/use.ipynb", ["1"], USE.replace("text: Path", "txt: Path"))
    (two / "lepton.toml").write_text(TOML.format(number=1) + "parameters = { text = 'x' }")
    with pytest.raises(InputError, match="did you mean 'txt'"):
        run_pipeline("two", two)
    assert not (two / "runs").exists()


def test_what_is_read_from_the_network_and_the_kits_code_count_as_changes(two, monkeypatch):
    request = Request(two / "notebooks/use.ipynb", {"text": "https://example.org/x.csv"})
    assert prepare(request, two).key is None
    request = Request(two / "notebooks/make.ipynb")
    before = prepare(request, two).key
    monkeypatch.setattr("lepton_kit.runs.runner.code_sha256", lambda: "other")
    assert prepare(request, two).key != before


def test_a_failing_step_ends_the_pipeline(two):
    write_notebook(two / "notebooks/make.ipynb", ["1 / 0"], "number: int = 0")
    steps = run_pipeline("two", two)
    assert [(step.run.name, step.run.status) for step in steps] == [("make", "failed")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[pipelines", "not TOML"), ("[pipeline.x]", "setting 'pipeline'"),
        ("[[pipelines.two.steps]]\nbook = 'x'", "notebook'"), ("[pipelines.two]\nsteps = []", "steps"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(project, text, words):
    (project / "lepton.toml").write_text(text)
    with pytest.raises(InputError, match=r"lepton\.toml") as error:
        find_pipeline("two", project)
    assert words in str(error.value)


def test_an_unknown_pipeline_is_told_which_there_are(two):
    with pytest.raises(InputError, match=r"pipeline 'three'.*there are: two"):
        find_pipeline("three", two)
