import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from helpers import ROOT, lepton_here
from watching import alert, watching

from lepton_kit.errors import InputError
from lepton_kit.project.begin import begin, examples, templates_of
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.notebooks import find_notebooks, locate_notebook
from lepton_kit.runs.shipped import in_project_or_shipped, name_of
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.slo import read_objectives


def test_a_project_is_begun_with_a_declaration_that_can_be_read_and_objectives_of_what_its_signals_count(tmp_path):
    project = tmp_path / "shop"
    begin(project, "shop", task="regression", address="http://127.0.0.1:1", signals=("vllm",))
    declared = read_settings(project).services["shop"]
    assert (declared.task, declared.address, declared.signals.preset) == ("regression", "http://127.0.0.1:1", ("vllm",))
    found = {one.name: one for one in read_objectives(project / declared.objectives)}
    assert {*found} == {"shop-availability", "shop-latency", "shop-first-token"}
    assert str(found["shop-first-token"].selector) == 'vllm:time_to_first_token_seconds_bucket{le="1.0"}'


def test_a_project_without_a_service_has_the_declaration_as_a_comment(tmp_path):
    begin(tmp_path)
    assert read_settings(tmp_path).services == {}
    commented = (tmp_path / "lepton.toml").read_text().partition("[remedies]")[0].splitlines()
    lines = [
        line.removeprefix("# ") for line in commented if line.startswith(("# [services", "# task =", "# columns ="))
    ]
    assert tomllib.loads("\n".join(lines))["services"]["scoring"]["task"] == "classification_binary"


def test_what_lies_in_the_folder_already_stays(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    begin(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    with pytest.raises(InputError, match="exists already"):
        begin(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "guess"}, r"services\.shop\.task' = 'guess'"),
        ({"address": "ftp://x"}, r"services\.shop\.address' = 'ftp://x'"),
        ({"signals": ("nagios",)}, "'nagios'.*must be one of"),
    ],
)
def test_a_mistake_in_what_is_declared_is_one_error_that_names_it_and_leaves_no_project(tmp_path, given, said):
    with pytest.raises(InputError, match=said):
        begin(tmp_path, "shop", **given)
    assert not (tmp_path / "lepton.toml").exists()


@pytest.mark.parametrize("example", examples())
def test_an_example_is_a_project_of_its_own(tmp_path, example):
    begin(tmp_path, example=example)
    assert all((tmp_path / "subjects" / name).is_file() for name in ("simulated.py", "machine.py"))  # for its drills
    settings = read_settings(tmp_path)
    assert len(settings.services) == 1
    for declared in settings.services.values():
        assert read_objectives(tmp_path / declared.objectives)
    readme = (tmp_path / "README.md").read_text()
    named = f"subjects/{example}/README.md"
    assert "lepton run rehearsal" in readme and named in readme and (tmp_path / named).is_file()


def test_a_project_of_no_example_speaks_of_none(tmp_path):
    begin(tmp_path, "mine")
    readme = (tmp_path / "README.md").read_text()
    assert "lepton doctor" in readme and "rehearsal" not in readme and "subjects/" not in readme


def test_an_unknown_example_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(InputError, match=f"'x': must be one of {', '.join(examples())}"):
        begin(tmp_path / "new", example="x")
    assert not (tmp_path / "new").exists()


def test_nothing_is_promised_of_a_service_whose_signals_count_nothing():
    assert templates_of("shop", Declaration()) == []


def test_a_notebook_of_the_kit_is_found_until_the_project_has_its_own(tmp_path):
    begin(tmp_path)
    shipped = locate_notebook("01", tmp_path)
    assert (shipped, name_of(shipped, tmp_path)) == (
        ROOT / "notebooks/01-data-cleaning.ipynb",
        "notebooks/01-data-cleaning.ipynb",
    )
    assert lepton_here("copy", "01", project=tmp_path).returncode == 0
    own = tmp_path / "notebooks/01-data-cleaning.ipynb"
    assert locate_notebook("01", tmp_path) == own
    assert [path for path in find_notebooks(tmp_path) if path.name == own.name] == [own]
    again = lepton_here("copy", "01", project=tmp_path)
    assert (again.returncode, "in the project already" in again.stderr) == (2, True)


def test_a_file_that_neither_the_project_nor_the_kit_has_is_named(tmp_path):
    with pytest.raises(InputError, match=r"'runbooks/none' .looked for .*runbooks/none, and among what the kit ships"):
        in_project_or_shipped("runbooks/none", tmp_path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the folder of a wheel's content, made of what git tracks."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    made = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "source"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_a_wheel_in_an_empty_folder_begins_examines_runs_watches_and_reports_a_project(wheel, tmp_path):
    alone = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(wheel), "LEPTON_QUARTO": "none"}

    def lepton(*words):
        command = [sys.executable, "-m", "lepton_kit.cli", *words]
        made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=alone)
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    lepton("init", "--service", "shop", "--task", "regression", "--signals", "fastapi")
    assert "services.shop.address: none" in lepton("doctor")
    assert "runbooks/incident-diagnosis.ipynb" in lepton("list")
    assert "wrong" not in lepton("slo", "list")
    assert "succeeded" in lepton("run", "incident-diagnosis")
    settings = tmp_path / "lepton.toml"  # an alert of a service of which nothing can be captured starts no diagnosis
    settings.write_text(settings.read_text().replace("[services.shop]\n", '[services.shop]\nlogs = "shop.jsonl"\n'))
    (tmp_path / "shop.jsonl").touch()
    with watching(tmp_path, "--insecure", **alone) as kit:
        assert kit.client.get("/status.json").json()["services"][0]["name"] == "shop"
        kit.post(alert(alertname="ShopAvailabilityBudgetBurn", service="shop"))
        [job] = kit.ended()
        assert (job.notebook, job.state) == ("runbooks/incident-diagnosis.ipynb", "ended"), job.error
    assert "report (" in lepton("report")
    assert (tmp_path / "reports/_site/index.html").is_file()
    assert not (wheel / "lepton_kit/shipped/runs").exists()
