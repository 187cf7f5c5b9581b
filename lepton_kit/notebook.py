"""What a notebook calls: record results, state expectations, read inputs, leave artifacts.

Everything recorded is an ordinary output of the cell, under a media type of its own. So the executed notebook alone
holds its results, in whatever it ran: JupyterLab, papermill, nbval or `lepton run`.
"""

from __future__ import annotations

import ast
import bdb
import html
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from lepton_kit.errors import ExpectationFailed, InputError
from lepton_kit.files import sha256_of
from lepton_kit.runs.project import find_project
from lepton_kit.runs.references import SUBJECT, is_remote, resolve
from lepton_kit.secrets import resolve_secret, variable_of

if TYPE_CHECKING:
    from lepton_kit.runs.checkpoints import Stored

RESULT = "application/vnd.lepton.result+json"
EXPECTATION = "application/vnd.lepton.expectation+json"
INPUT = "application/vnd.lepton.input+json"
CHECKPOINT = "application/vnd.lepton.checkpoint+json"
END = "application/vnd.lepton.end+json"
CHART = "application/vnd.vegalite.v5+json"  # which JupyterLab draws by itself
_inputs_read: dict[str, str | None] = {}  # what this kernel's notebook has read so far, with its content's hash
_checkpoints_made: set[str] = set()
_secrets_given: dict[str, str] = {}
Secret = str  # in a parameters cell: a reference to a secret


def record(
    name: str = "",
    value: Any = None,
    unit: str = "",
    *,
    rtol: float = 1e-6,
    atol: float = 0.0,
    compare: bool = True,
    title: str = "",
    headline: bool | str = False,
    better: Literal["", "higher", "lower"] = "",
    **values: Any,
) -> None:
    """Record a named result of this notebook and show it; or several, as `record(cause="data", probability=0.97)`.

    Parameters
    ----------
    name
        What the result is called in the manifest; the last value recorded under a name counts.
    value
        A number, text, truth value, None, or a list, dict, DataFrame or Series of these. The row labels of a table
        are its first columns, unless they only count the rows.
    unit
        Unit of the value, such as `"USD"`, `"ms"` or `"1"` for a ratio.
    rtol, atol
        A later run agrees when `|new - old| <= atol + rtol * |old|`, for every number inside the value.
    compare
        False for what may differ from run to run, such as a time measured or an identifier.
    title
        What readers see in place of the name, such as `"Mean wait"`.
    headline
        True for the few results that stand for the notebook: its page, listings and `lepton run` show them first. Of
        several results, the name of the one that does.
    better
        Which direction of a number is the better one; without it, a change is shown and not judged.
    **values
        Results by name. Tolerances and `compare` hold for each of them.

    Raises
    ------
    InputError
        When the value is of a type that JSON cannot hold, two keys of a dict are the same in JSON, `unit` or
        `better` is not what it must be, or nothing is named.
    """
    if not name:
        if not values:
            raise InputError("record: names no result: give a name and a value, or name=value")
        for each, one in values.items():
            record(each, one, rtol=rtol, atol=atol, compare=compare, headline=each == headline)
        return
    if values:
        raise InputError(f"result {name!r}: record() takes one name and value, or keywords; not both: {list(values)}")
    _check_words(name, unit, better)
    payload = {
        "name": str(name), "value": plain(value, name), "unit": unit, "rtol": float(rtol),
        "atol": float(atol), "compare": bool(compare),
    }  # fmt: skip
    said = {"title": title, "headline": bool(headline), "better": better}
    payload |= {field: value for field, value in said.items() if value}
    _display(RESULT, payload, text=f"{name} = {_as_text(value, unit)}", markup=_result_html(title or name, value, unit))


def _check_words(name: str, unit: str, better: str) -> None:
    if not isinstance(unit, str):
        raise InputError(f"result {name!r}: unit {unit!r} must be text, such as 'USD', or '1' for a ratio")
    if better not in ("", "higher", "lower"):
        raise InputError(f"result {name!r}: better = {better!r}: must be 'higher' or 'lower', or left out")


def say(*sentences: str) -> None:
    """Show sentences made of this run's results, a paragraph each; what is in them never becomes markup.

    A notebook tells so what it found: whatever it is run on, its words are about that.
    """
    from IPython.display import display

    told = [sentence for sentence in sentences if sentence]
    markup = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in told)
    display({"text/plain": "\n".join(told), "text/html": markup}, raw=True)  # type: ignore[no-untyped-call]


def expect(condition: Any, message: str, **values: Any) -> None:
    """State a condition that must hold, with the values that show it.

    Raises
    ------
    ExpectationFailed
        When the condition is false: the run stops here, and its status becomes `expectation_failed`.
    """
    passed = bool(condition)
    payload = {"message": str(message), "passed": passed, "values": {k: plain(v, k) for k, v in values.items()}}
    shown = ", ".join(f"{k} = {_as_text(v)}" for k, v in values.items())
    line = f"{'✓' if passed else '✗'} {message}" + (f" ({shown})" if shown else "")
    _display(EXPECTATION, payload, text=line, markup=f"<p>{html.escape(line)}</p>")
    if not passed:
        raise ExpectationFailed(f"expected: {message}" + (f"; got {shown}" if shown else ""))


def end(reason: str) -> NoReturn:
    """End the notebook in this cell, because the rest does not apply; the run succeeds.

    The cells below do not run, and each shows the reason: in a run, in JupyterLab, in nbval and in nbconvert alike. To
    go on by hand, run the first cell again, or this one.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:  # a notebook that was exported as a program
        print(f"Ended here: {reason}")
        sys.exit()

    def succeed(result: Any) -> None:
        if isinstance(result.error_in_exec, bdb.BdbQuit):
            result.error_in_exec = None
        shell.events.unregister("post_run_cell", succeed)

    shell.events.register("post_run_cell", succeed)
    shell.ast_transformers.append(_NotRun(shell, reason))
    _display_end(reason, is_run=True)
    raise bdb.BdbQuit  # which stops a cell, and of which IPython shows no traceback


class _NotRun:
    """Takes the place of each cell after the end, until the first cell or the one that ended is run again."""

    def __init__(self, shell: Any, reason: str) -> None:
        self.shell, self.reason = shell, reason
        ran = shell.history_manager.input_hist_raw[1:]  # nbval leaves it empty
        self.count, self.resuming = len(ran), [*ran[:1], *ran[-1:]]

    def visit(self, tree: ast.Module) -> ast.Module:
        """Return what runs in place of a cell, as IPython asks it of its `ast_transformers`."""
        cells = self.shell.history_manager.input_hist_raw[1:]
        if len(cells) > self.count and cells[-1] in self.resuming:
            self.shell.ast_transformers = [one for one in self.shell.ast_transformers if one is not self]
            return tree
        _display_end(self.reason, is_run=False)
        return ast.Module([], [])


def _display_end(reason: str, is_run: bool) -> None:
    line = f"{'Ended here' if is_run else 'Not run'}: {reason}"
    _display(END, {"reason": reason, "is_run": is_run}, text=line, markup=f"<p>{html.escape(line)}</p>")


def was_not_run(cell: Any) -> bool:
    """Say whether the notebook ended before this cell."""
    return any(not payload["is_run"] for payload in payloads(cell.get("outputs", []), END))


def input(reference: str | os.PathLike[str]) -> str:
    """Find an input and note its hash as this run's lineage.

    Parameters
    ----------
    reference
        A file or folder (relative to the project's root), `run:<notebook or run id>/<file>` for an artifact of an
        earlier run, or `sample:…` and `http(s)://…`, which are passed through.

    Returns
    -------
    str
        The absolute path, or the reference itself where it is not a local file.

    Raises
    ------
    InputError
        When there is no such file, folder, run or artifact.
    """
    reference = os.fspath(reference)
    if is_remote(reference):
        _inputs_read[reference] = None
        _display(INPUT, {"ref": reference, "sha256": None, "run": None}, text=f"input {reference}")
        return reference
    found = resolve(reference, find_project(), subject=_own_subject())
    payload = {"ref": found.pinned, "sha256": sha256_of(found.path), "run": found.run_id}
    _inputs_read[found.pinned] = payload["sha256"]
    _display(INPUT, payload, text=f"input {reference}")
    return str(found.path)


def artifact(name: str) -> Path:
    """Return the path under which this run leaves a file for others.

    Others name it `run:<notebook or run id>/<name>`. Outside a run (an analyst in JupyterLab) files lie in
    `runs/interactive/<notebook>/artifacts/`, where later notebooks find them by the notebook's name.
    """
    folder = (run_folder() / "artifacts").resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder) or path == folder:
        raise InputError(f"artifact {name!r}: must be a file name inside the run's artifacts folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def checkpoint(name: str, compute: Callable[[], Any]) -> Any:
    """Compute a value once and store it; a resumed run takes the stored one where nothing before it has changed.

    Parameters
    ----------
    name
        Letters, digits, `.`, `_` and `-`; once per run.
    compute
        Takes nothing and returns a DataFrame, a Series, a tensor, an array, a dict of tensors or of arrays, or what
        JSON holds. It should only return a value: what else it does is not repeated when the value is reused.

    Returns
    -------
    Any
        What `compute` returned, now or in the run that is resumed. By hand in JupyterLab it is always computed.

    Raises
    ------
    InputError
        When the name was used before in this run, or the value is of a type that no open format keeps.
    """
    from lepton_kit.runs import checkpoints

    checkpoints.check_name(name)
    in_run = "LEPTON_RUN_DIR" in os.environ
    if in_run and name in _checkpoints_made:
        raise InputError(f"checkpoint {name!r}: used already in this run; each needs a name of its own")
    folder, key, reason, started = run_folder() / "checkpoints", checkpoints.present_key(), None, time.perf_counter()
    if resumed := os.environ.get("LEPTON_RESUME_DIR"):
        value, stored, reason = checkpoints.reuse(name, Path(resumed), folder, key, find_project())
        if stored is not None:
            known = {**_inputs_read, **checkpoints.declared_inputs(run_folder())}
            for reference in stored.inputs.keys() - known.keys():
                input(reference)  # what the stored value was computed from is lineage of this run too
            _note_checkpoint(stored, time.perf_counter() - started, reused=True, reason=None)
            return value
    value = compute()
    inputs = {**checkpoints.declared_inputs(run_folder()), **_inputs_read}
    stored = checkpoints.store(name, value, folder, key, inputs, checkpoints.project_modules(find_project()))
    _note_checkpoint(stored, time.perf_counter() - started, reused=False, reason=reason)
    return value


def resumable_folder(name: str) -> Path:
    """Return a folder for work that saves its own state; a resumed run gets it as the run before left it.

    It is empty in a run that resumes none, and where the cells so far, the kit or the packages are not as they were.
    The work itself must refuse state that is of other data (`tune(study=…)`, `train_on(checkpoints=…)` do).
    """
    from lepton_kit.runs import checkpoints

    checkpoints.check_name(name)
    return checkpoints.take_over(name, run_folder() / "checkpoints", os.environ.get("LEPTON_RESUME_DIR"))


def _note_checkpoint(stored: Stored, seconds: float, reused: bool, reason: str | None) -> None:
    _checkpoints_made.add(stored.name)
    fields = {key: getattr(stored, key) for key in ("name", "format", "file", "sha256", "bytes", "key")}
    payload = {**fields, "seconds": round(seconds, 3), "reused": reused}
    verb = "reused" if reused else f"recomputed: {reason}" if reason else "stored"
    line = f"checkpoint {stored.name} {verb} ({stored.bytes} bytes, {stored.format}, {seconds:.2f} s)"
    _display(CHECKPOINT, payload, text=line)


def secret(name: str) -> str:
    """Return the value of a secret, whose parameter holds only a reference to it.

    In a run the kit keeps the value out of everything that is saved. By hand, in JupyterLab, nothing does.

    Parameters
    ----------
    name
        A parameter annotated `Secret`: `env:NAME` or `file:PATH`, relative to the project's root.

    Raises
    ------
    InputError
        When there is no such parameter, or nothing where it refers to.
    """
    variable = variable_of(name)
    if variable in os.environ:
        _secrets_given[name] = os.environ.pop(variable)  # processes that the notebook starts need not see it
    if name in _secrets_given:
        return _secrets_given[name]
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None or name not in shell.user_ns:
        raise InputError(f"secret {name!r}: the parameters cell has no line `{name}: Secret = 'env:…'`")
    return resolve_secret(str(shell.user_ns[name]), find_project())


def _own_subject() -> str | None:
    """Return whose data the notebook works on, where it has a parameter that says so."""
    from IPython import get_ipython

    shell = get_ipython()
    given = shell.user_ns.get(SUBJECT) if shell is not None else None
    return given if isinstance(given, str) else None


def path(name: str | os.PathLike[str]) -> Path:
    """Return a path inside the project, given relative to the project's root."""
    return find_project() / name


def run_folder() -> Path:
    """Return the folder of the present run."""
    if folder := os.environ.get("LEPTON_RUN_DIR"):
        return Path(folder)
    # Jupyter Server tells the kernel which notebook it serves; other ways of running a notebook by hand do not.
    notebook = Path(os.environ.get("JPY_SESSION_NAME", "notebook.ipynb")).stem
    return find_project() / "runs" / "interactive" / notebook


def run_id() -> str:
    """Return the id of the present run, or `interactive`."""
    return Path(os.environ["LEPTON_RUN_DIR"]).name if "LEPTON_RUN_DIR" in os.environ else "interactive"


def plain(value: Any, name: str) -> Any:
    """Turn a value into what JSON holds, so that equal results are stored as equal text.

    A DataFrame becomes `{"columns": [...], "rows": [[...]]}`, and so does a Series that has labels; floats that JSON
    lacks become `"nan"`, `"inf"`, `"-inf"`.
    """
    if (table := _table(value)) is not None:
        rows = [[plain(cell, name) for cell in row] for row in table.itertuples(index=False, name=None)]
        return {"columns": [str(column) for column in table.columns], "rows": rows}
    if isinstance(value, dict):
        return _plain_dict(value, name)
    if type(value).__module__ == "numpy" and value.dtype.kind in "Mm":
        return _plain_times(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, pandas series
        return plain(value.tolist(), name)
    if isinstance(value, set | frozenset):
        return sorted((plain(item, name) for item in value), key=lambda item: (type(item).__name__, str(item)))
    if isinstance(value, list | tuple):
        return [plain(item, name) for item in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(
        f"result {name!r} is a {type(value).__name__}: record a number, text, truth value, None, "
        "or a list, dict or DataFrame of these"
    )


def _plain_dict(value: dict[Any, Any], name: str) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for key in value:
        if str(key) in keys:
            raise InputError(f"result {name!r}: its keys {keys[str(key)]!r} and {key!r} are the same in JSON")
        keys[str(key)] = key
    return {text: plain(value[key], name) for text, key in keys.items()}


def _plain_times(value: Any) -> Any:
    """Return numpy's times and durations as ISO 8601 has them; its own `tolist` counts nanoseconds."""
    import pandas as pd  # where such values are it is installed, but for a bare numpy

    if value.ndim:
        return [_plain_times(item) for item in value]
    return (pd.Timestamp(value) if value.dtype.kind == "M" else pd.Timedelta(value)).isoformat()


def payloads(outputs: list[dict[str, Any]], media_type: str) -> Iterator[dict[str, Any]]:
    """Yield what was recorded under one media type in a cell's outputs."""
    for output in outputs:
        if media_type in output.get("data", {}):
            yield output["data"][media_type]


def _table(value: Any) -> Any:
    """Return a DataFrame, or a Series with labels, as a table whose first columns are the labels; None of all else."""
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(value, pandas.DataFrame | pandas.Series):
        return None
    index = value.index
    only_counts = _only_counts(index)
    if isinstance(value, pandas.Series):
        if only_counts:
            return None
        value = value.to_frame("value" if value.name is None else value.name)
    table = value.copy(deep=False)
    if isinstance(table.columns, pandas.MultiIndex):
        table.columns = [" ".join(str(part) for part in column if part != "") for column in table.columns]
    if only_counts:
        return table
    placed = 0
    for level in range(index.nlevels):
        unnamed = "index" if index.nlevels == 1 else f"level {level}"
        title = unnamed if index.names[level] is None else str(index.names[level])
        labels = index.get_level_values(level)
        alike = [at for at, column in enumerate(table.columns) if str(column) == title]
        if any(list(labels) == list(table.iloc[:, at]) for at in alike):
            continue  # a column says the same already
        if labels.dtype.kind not in "iufbM":  # such as intervals, which have a text and nothing else
            labels = labels.astype(str)
        table.insert(placed, title, labels, allow_duplicates=True)
        placed += 1
    return table


def _only_counts(index: Any) -> bool:
    """Say whether labels are the numbers of the rows, in order or sorted otherwise: they say nothing of a row."""
    if index.name is not None or index.nlevels > 1 or index.dtype.kind != "i":
        return False
    return type(index).__name__ == "RangeIndex" or sorted(index) == list(range(len(index)))


def _as_text(value: Any, unit: str = "") -> str:
    if (table := _table(value)) is not None:
        return f"\n{table.to_string(index=False)}"
    if hasattr(value, "tolist"):
        value = plain(value, "")
    text = _number_text(value) if isinstance(value, float) else str(value)
    return f"{text} {unit}" if unit not in ("", "1") else text


def _result_html(name: str, value: Any, unit: str) -> str:
    if (table := _table(value)) is not None:
        label = html.escape(name + (f" ({unit})" if unit not in ("", "1") else ""))
        return f"<p><strong>{label}</strong></p>{_table_html(table)}"
    return f"<p><strong>{html.escape(name)}</strong> = {html.escape(_as_text(value, unit))}</p>"


def _table_html(frame: Any) -> str:
    """Return a table with numbers to the right and words to the left, where pandas' own puts all to the right."""

    def row(cells: list[str], tag: str) -> str:
        sides = ["right" if frame.dtypes.iloc[i].kind in "iufb" else "left" for i in range(len(cells))]
        pairs = zip(cells, sides, strict=True)
        return "<tr>" + "".join(f'<{tag} style="text-align: {side}">{cell}</{tag}>' for cell, side in pairs) + "</tr>"

    body = [[html.escape(_cell_text(cell)) for cell in cells] for cells in frame.itertuples(index=False)]
    head = row([html.escape(str(name)) for name in frame.columns], "th")
    return f"<table><thead>{head}</thead><tbody>{''.join(row(cells, 'td') for cells in body)}</tbody></table>"


def _number_text(number: float) -> str:
    return f"{number:.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"


def _cell_text(cell: Any) -> str:
    if isinstance(cell, float):
        return "–" if math.isnan(cell) else _number_text(cell)
    return str(cell)


def _display(media_type: str, payload: dict[str, Any], text: str, markup: str | None = None) -> None:
    from IPython.display import display  # the import costs half a second that only a notebook should pay

    bundle = {media_type: payload, "text/plain": text}
    if markup is not None:
        bundle["text/html"] = markup
    display(bundle, raw=True)  # type: ignore[no-untyped-call]
