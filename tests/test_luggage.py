import io
import tarfile
import tomllib

import pytest
from helpers import write_notebook

from lepton_kit.errors import InputError
from lepton_kit.runs.luggage import check_can_travel, pack_plan, pack_run, unpack_plan, unpack_run
from lepton_kit.runs.references import resolve
from lepton_kit.runs.runner import Request, prepare, run_notebook

TABLE = "from pathlib import Path\ntable: Path = 'table.csv'"


@pytest.fixture
def there(tmp_path_factory):
    """An empty folder, as on a worker."""
    return tmp_path_factory.mktemp("there")


def test_the_artifact_of_an_earlier_run_travels_as_that_run_left_it(project, there):
    run = run_notebook(
        Request(write_notebook(project / "notebooks/a.ipynb", ["lk.artifact('t.csv').write_text('a')"])), project
    )
    reader = write_notebook(project / "notebooks/b.ipynb", [], TABLE)
    plan, packed = pack_plan(prepare(Request(reader, {"table": "run:a/t.csv"}), project), project)
    arrived = unpack_plan(plan, packed, there)
    assert resolve(arrived.values["table"], there).path == there / "runs" / run.run_id / "artifacts/t.csv"
    assert arrived.notebook.read_bytes() == reader.read_bytes() and arrived.beside == there / "notebooks"


def test_a_notebook_from_outside_of_the_project_takes_the_modules_beside_it_along(project, there, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "beside.py").write_text("x = 1\n")
    plan, packed = pack_plan(prepare(Request(write_notebook(elsewhere / "n.ipynb", [])), project), project)
    arrived = unpack_plan(plan, packed, there)
    assert arrived.notebook.is_file() and (arrived.beside / "beside.py").read_text() == "x = 1\n"


def test_an_absolute_path_must_be_the_same_file_on_the_worker(project, there, tmp_path_factory):
    table = tmp_path_factory.mktemp("disk") / "table.csv"
    table.write_text("a\n")
    path = write_notebook(project / "notebooks/n.ipynb", [], TABLE)
    plan, packed = pack_plan(prepare(Request(path, {"table": str(table)}), project), project)
    unpack_plan(plan, packed, there)
    table.write_text("b\n")
    with pytest.raises(InputError, match=r"parameter 'table' = .*table.csv.*not on the worker, or differs there"):
        unpack_plan(plan, packed, there)


def test_a_path_that_leads_out_of_the_project_is_refused(project):
    (project / "inner/notebooks").mkdir(parents=True)
    (project / "inner/lepton.toml").write_text("")
    (project / "table.csv").write_text("a\n")
    path = write_notebook(project / "inner/notebooks/n.ipynb", [], TABLE)
    plan = prepare(Request(path, {"table": "../table.csv"}), project / "inner")
    with pytest.raises(InputError, match=r"parameter 'table' = '\.\./table\.csv': lies outside of the project"):
        check_can_travel(plan)


def test_a_run_folder_comes_back_without_a_manifest_and_never_leads_out_of_its_place(project, there):
    run = run_notebook(
        Request(write_notebook(project / "notebooks/n.ipynb", ["open('stray.txt', 'w').close()"])), project
    )
    unpack_run(pack_run(run.folder(project)), there)
    assert {path.name for path in there.iterdir()} == {"artifacts", "kernel.log", "notebook.ipynb", "stray.txt"}
    hostile = io.BytesIO()
    with tarfile.open(fileobj=hostile, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../outside.txt"))
    with pytest.raises(InputError, match=r"what the worker sent back cannot be written"):
        unpack_run(hostile.getvalue(), there)
    assert not list(there.parent.rglob("outside.txt"))


@pytest.mark.parametrize("track", ['[track]\nmlflow = "http://me:hunter2@m"', 'track = { "mlflow" = "hunter2" }'])
def test_settings_that_may_hold_passwords_stay_at_home(track, project, there):
    kept = '[services.goog]\nurl = "http://127.0.0.1:8000"\nmore = [1.5, true, 2026-11-30T10:00:00Z, { a = "\\"" }]\n'
    left = f'ledger = "postgresql+psycopg://me:hunter2@db/x"\n{track}\n[notify.to]\n"x" = "hunter2"\n'
    (project / "lepton.toml").write_text(left + kept)
    path = write_notebook(project / "notebooks/n.ipynb", [])
    plan, packed = pack_plan(prepare(Request(path), project), project)
    assert b"hunter2" not in packed
    unpack_plan(plan, packed, there)
    assert tomllib.loads((there / "lepton.toml").read_text()) == tomllib.loads(kept)
