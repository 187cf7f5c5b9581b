import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import papermill
import psutil
import pytest
from helpers import PATIENCE_S, write_notebook
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from lepton_kit.errors import CellTimedOut, RunTimedOut
from lepton_kit.runs.redaction import Redactor
from lepton_kit.runs.saver import NotebookSaver


@pytest.fixture
def engine(tmp_path):
    """Run cells through papermill on the engine; return the saved notebook's code cells."""

    def execute(cells, parameters=None, **options):
        path = write_notebook(tmp_path / "in.ipynb", cells, "x: int = 1")
        papermill.execute_notebook(
            str(path), None, parameters, engine_name="lepton", progress_bar=False, save_path=execute.saved, **options
        )
        return saved_cells(execute.saved)

    execute.saved = tmp_path / "out.ipynb"
    return execute


def saved_cells(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def states(path):
    """States of the cells that a test wrote: without the import and the parameters that come first."""
    return [cell.metadata.papermill.status for cell in saved_cells(path)][2:]


def test_every_cell_that_ran_is_completed_and_timed(engine):
    cells = engine(["1 + 1", "print('a')\nprint('b')", ""])
    assert {cell.metadata.papermill.status for cell in cells} == {"completed"}
    assert cells[2].outputs[0].data["text/plain"] == "2"
    assert cells[3].outputs[0].text == "a\nb\n"
    assert all(cell.metadata.papermill.duration >= 0 for cell in cells)


def test_the_cells_after_a_failing_one_are_not_run(engine):
    with pytest.raises(PapermillExecutionError, match="ZeroDivisionError"):
        engine(["1", "1 / 0", "2"])
    assert states(engine.saved) == ["completed", "failed", "not run"]
    assert saved_cells(engine.saved)[3].outputs[0].ename == "ZeroDivisionError"


def test_a_syntax_error_fails_its_cell(engine):
    with pytest.raises(PapermillExecutionError, match="SyntaxError"):
        engine(["def f(:", "2"])
    assert states(engine.saved) == ["failed", "not run"]


@pytest.mark.parametrize(
    ("death", "said"),
    [("os._exit(3)", "exit status 3"), ("os.kill(os.getpid(), 9)", "killed by SIGKILL; out of memory")],
)
def test_a_dead_kernel_is_noticed_and_its_cell_has_failed(engine, death, said):
    with pytest.raises(DeadKernelError, match=said):
        engine(["1", f"print('last words', flush=True); import os, time; time.sleep(.3); {death}", "2"])
    assert states(engine.saved) == ["completed", "failed", "not run"]
    assert saved_cells(engine.saved)[3].outputs[0].text == "last words\n"


def test_a_cell_that_takes_too_long_is_interrupted_and_may_clean_up(engine):
    started = time.monotonic()
    with pytest.raises(CellTimedOut, match=r"cell 4 was stopped: it ran longer than the 0.5 s"):
        engine(["1", "import time\ntry:\n    time.sleep(600)\nfinally:\n    print('tidied')", "2"], cell_timeout=0.5)
    assert time.monotonic() - started < 300
    assert states(engine.saved) == ["completed", "interrupted", "not run"]
    assert saved_cells(engine.saved)[3].outputs[0].text == "tidied\n"


@pytest.mark.parametrize(
    "stubborn",
    [
        "import time\nwhile True:\n    try:\n        time.sleep(600)\n    except KeyboardInterrupt:\n        pass",
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(600)",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nwhile True: pass",
    ],
)
def test_a_cell_that_ignores_interrupts_is_killed(engine, stubborn):
    started = time.monotonic()
    with pytest.raises(CellTimedOut):
        engine([f"import os; print(os.getpid(), flush=True)\n{stubborn}", "2"], cell_timeout=0.5)
    assert time.monotonic() - started < 300
    assert states(engine.saved) == ["interrupted", "not run"]
    assert not psutil.pid_exists(int(saved_cells(engine.saved)[2].outputs[0].text))


def test_a_run_that_takes_too_long_is_stopped_though_no_cell_does(engine):
    with pytest.raises(RunTimedOut, match="longer than the 2 s"):
        engine(["import time; time.sleep(.5)"] * 20, run_timeout=2, cell_timeout=1.9)
    assert "interrupted" in states(engine.saved)
    assert states(engine.saved)[-1] == "not run"


def test_papermills_own_timeout_is_a_cells(engine):
    with pytest.raises(CellTimedOut):
        engine(["import time; time.sleep(600)"], execution_timeout=1)


def test_an_interrupt_leaves_a_valid_notebook_and_no_kernel(engine):
    def interrupt(kind, number, total, text):
        if kind == "cell_output" and text.isdigit():
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        engine(["1;", "import os, time; print(os.getpid(), flush=True); time.sleep(600)", "2"], on_event=interrupt)
    assert states(engine.saved) == ["completed", "interrupted", "not run"]
    assert not psutil.pid_exists(int(saved_cells(engine.saved)[3].outputs[0].text))


def test_cells_that_are_no_code_or_not_to_be_run_say_so(engine, tmp_path):
    path = write_notebook(tmp_path / "kinds.ipynb", ["1", "2 / 0", "3 / 0"])
    notebook = nbformat.read(path, 4)
    notebook.cells[-2].metadata.tags = ["raises-exception"]
    notebook.cells[-1].metadata.tags = ["skip-execution"]
    notebook.cells.append(nbformat.v4.new_raw_cell("raw"))
    nbformat.write(notebook, path)
    with pytest.raises(PapermillExecutionError):  # papermill fails for any error output, also for one that is meant
        papermill.execute_notebook(
            str(path), None, engine_name="lepton", progress_bar=False, save_path=tmp_path / "out.ipynb"
        )
    saved = nbformat.read(tmp_path / "out.ipynb", 4)
    assert [cell.metadata.papermill.status for cell in saved.cells[-4:]] == [
        "completed", "completed", "not run", "completed",
    ]  # fmt: skip
    assert saved.metadata.papermill.exception is None


def test_events_tell_of_code_cells_and_their_last_line(engine):
    events = []
    engine(
        ["print('first')\nprint('50 %')", "import time; time.sleep(.3); 7"],
        on_event=lambda *event: events.append(event),
    )
    assert [event for event in events if event[1] > 2] == [
        ("cell_started", 3, 4, ""), ("cell_output", 3, 4, "50 %"), ("cell_ended", 3, 4, ""),
        ("cell_started", 4, 4, ""), ("cell_output", 4, 4, "7"), ("cell_ended", 4, 4, ""),
    ]  # fmt: skip


def test_fifty_megabytes_of_output_arrive_whole(engine):
    cells = engine(["for i in range(50): print(str(i % 10) * 1_000_000)"])
    assert len(cells[2].outputs[0].text) == 50 * 1_000_001


def test_output_beyond_what_a_cell_keeps_is_left_out_and_the_cell_says_so(engine):
    small = "import lepton_kit as lk; print('x'); lk.record('answer', 42); 1 / 0"
    flood = "for i in range(200): print(str(i % 10) * 1_000_000, flush=True)"
    with pytest.raises(PapermillExecutionError):
        engine([f"{flood}\n{small}", "2"])
    kept, *others = saved_cells(engine.saved)[2].outputs
    assert 60 * 2**20 < len(kept.text) <= 64 * 2**20
    assert [output.output_type for output in others] == ["display_data", "error", "stream"]
    assert re.fullmatch(r"lepton: 1\d\d\.\d MiB of the output .* a cell keeps 64 MiB, .*\n", others[-1].text)


def test_of_output_in_one_piece_that_is_too_large_the_beginning_is_kept(engine):
    shown = "from IPython.display import display\ndisplay({'text/plain': 'x' * 80_000_000}, raw=True)\nprint('gone')"
    cells = engine(["print('ü' + 'x' * 80_000_000)", shown, "print('next')"])
    text, note = cells[2].outputs
    assert text.text.startswith("üxxx") and 60 * 2**20 < len(text.text) <= 64 * 2**20
    assert "12.3 MiB of the output of this cell were left out" in note.text
    assert ["76.3 MiB" in output.text for output in cells[3].outputs] == [True]
    assert cells[4].outputs[0].text == "next\n"


def test_ten_thousand_displays_arrive_whole(engine):
    cells = engine(["for i in range(10_000): display(i)"])
    assert len(cells[2].outputs) == 10_000


def test_clearing_and_updating_output_work_as_in_jupyterlab(engine):
    cells = engine(
        [
            "from IPython.display import clear_output, display\nprint('gone'); clear_output(); print('stays')",
            "shown = display('old', display_id=True); print('x'); shown.update('new')",
            "import sys; print('out'); print('err', file=sys.stderr)",
        ]
    )
    assert [output.text for output in cells[2].outputs] == ["stays\n"]
    assert cells[3].outputs[0].data["text/plain"] == "'new'"
    assert {output.name for output in cells[4].outputs} == {"stdout", "stderr"}


def test_a_running_cells_output_is_on_disk_before_it_ends(engine):
    look = "import time, pathlib\nprint('early', flush=True); time.sleep(2.5)\n"
    cells = engine([f"{look}print(pathlib.Path({str(engine.saved)!r}).read_text().count('early'))"])
    seen = cells[2].outputs[0].text.split()
    assert int(seen[-1]) >= 2  # in the source, and in the saved output


def test_saves_are_few_however_many_cells(monkeypatch, engine):
    saves = []
    monkeypatch.setattr(NotebookSaver, "save", _counted(NotebookSaver.save, saves))
    started = time.monotonic()
    engine(["1"] * 100)
    assert len(saves) <= time.monotonic() - started + 2


def _counted(save, saves):
    def counted(self, running=False):
        saves.append(running)
        save(self, running)

    return counted


def test_what_is_saved_is_byte_for_byte_what_nbformat_writes(engine):
    engine(["print('ä \\\\ \"quoted\"\\nline')", "display({'text/html': '<b>\\n</b>'}, raw=True)", "1"])
    saved = engine.saved.read_text()
    assert saved == nbformat.writes(nbformat.read(engine.saved, 4)) + "\n"


def test_half_a_character_is_saved_as_its_escape():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("half \ud83d of it")])
    saved = NotebookSaver(notebook, write=lambda content: None).as_json()
    assert nbformat.reads(saved.decode(), 4).cells[0].source == "half \ud83d of it"


def test_papermill_alone_saves_where_it_was_told(tmp_path):
    path = write_notebook(tmp_path / "in.ipynb", ["print(y)"], "y: int = 1")
    made = papermill_command(path, tmp_path / "out.ipynb", "-p", "y", "5")
    assert made.returncode == 0, made.stderr
    assert saved_cells(tmp_path / "out.ipynb")[-1].outputs[0].text == "5\n"


def papermill_command(*words):
    command = [sys.executable, "-m", "papermill", "--engine", "lepton", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def test_papermill_can_write_to_standard_output(tmp_path):
    path = write_notebook(tmp_path / "in.ipynb", ["print('here')"])
    made = papermill_command(path, "-")
    assert made.returncode == 0, made.stderr
    assert "here" in json.dumps(json.loads(made.stdout))


def test_a_secrets_value_is_in_no_saved_byte_though_it_comes_in_pieces(engine):
    value = "s3cr3t-value-9876"
    cell = f"import sys, time\nfor part in ({value[:6]!r}, {value[6:]!r}):\n    print(part, end='', flush=True)\n"
    with pytest.raises(PapermillExecutionError):
        engine([cell + f"    time.sleep(.4)\nraise ValueError({value[:3]!r} + {value[3:]!r})"],
               redactor=Redactor({"key": value}))  # fmt: skip
    assert value not in engine.saved.read_text()
    assert saved_cells(engine.saved)[2].outputs[0].text == "[secret key]"


def test_the_kernels_own_log_is_redacted_as_it_is_written(engine, tmp_path):
    value = "s3cr3t-value-9876"
    log = tmp_path / "kernel.log"
    engine([f"import os; os.write(1, b'said {value}'); os.write(2, b'more')"], redactor=Redactor({"key": value}),
           kernel_log=log)  # fmt: skip
    assert "said [secret key]" in log.read_text()
    assert value not in log.read_text()


EVERY_TYPE = {
    "whole": -3, "number": 1e-300, "truth": True, "nothing": None, "empty": "", "listed": [1, [2.5, None], "x"],
    "mapped": {"a'b": {"c\"d": [True]}, "ä\n": "\\"}, "quotes": """'"\'\'\'\"\"\"""", "lines": "a\nb\r\n\tc\x00\x1b",
    "unicode": "ünïcödé 🎉 \u2028 \u202e", "escape": "'); __import__('os')._exit(3) #",
    "braces": "{{x}} {0} %s ${HOME} {% x %}",
    "backslash": "\\", "infinite": float("inf"),
}  # fmt: skip


def test_parameters_of_every_type_arrive_as_they_were_given(engine):
    names = list(EVERY_TYPE)
    cells = engine([f"import json; print(json.dumps([{', '.join(names)}]))"], parameters=EVERY_TYPE)
    assert json.loads(cells[-1].outputs[0].text) == list(EVERY_TYPE.values())
