"""The `lepton` command: each command is a few lines that call the package."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from lepton_kit import __version__
from lepton_kit.commands import act, approve, begin, demo, drill, export, incidents, objectives, reports, serving, watch
from lepton_kit.commands.terminal import WIDE, AsJson, new_console, print_lines, print_pairs, say
from lepton_kit.commands.terminal import table as new_table
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.runs.ids import short_id
from lepton_kit.runs.project import find_project, setting

if TYPE_CHECKING:  # each command imports what it needs when it runs, so that `lepton --help` answers at once
    from lepton_kit.runs.cluster import Cluster
    from lepton_kit.runs.manifest import Manifest


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"lepton {__version__}")
        raise typer.Exit


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


for command in (
    begin.init, begin.copy, begin.doctor, serving.register, serving.serve, watch.watch, watch.incidents,
    watch.acknowledge, watch.silence, watch.notify, watch.ui,
    approve.approve, serving.replay, serving.deploy, serving.rollback, serving.undo, act.act, incidents.capture,
    incidents.check_next, demo.demo, drill.drill, reports.publish, reports.unpublish, reports.report, export.export,
):  # fmt: skip
    app.command()(command)
app.add_typer(objectives.app, name="slo")


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Notebooks and runbooks that keep AI services stable."""


KernelName = Annotated[
    str | None, typer.Option("--kernel", "-k", metavar="NAME", help="Kernel to use instead of the notebook's own.")
]
COLOURS = {"succeeded": "green", "running": "blue"}
LISTED = {"run_id", "notebook", "title", "status", "trigger", "started", "ended", "duration_s", "attempt", "retry_of"}
"""What the JSON of a list of runs has of each; `lepton show RUN --json` prints the whole."""


@app.command("list")
def list_notebooks(as_json: AsJson = False) -> None:
    """List the project's notebooks and runbooks."""
    from lepton_kit.runs.notebooks import find_notebooks, read_notebook, title_of
    from lepton_kit.runs.shipped import name_of

    project = find_project()
    found = []
    for path in find_notebooks(project):
        title, problem = "", None
        try:
            title = title_of(read_notebook(path), path.stem)
        except InputError as error:  # the others are listed all the same
            problem = str(error).partition(": ")[2]
        found.append({"notebook": name_of(path, project), "title": title, "problem": problem})
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = new_table("notebook", "title")
    for one in found:
        table.add_row(escape(str(one["notebook"])), escape(one["title"] or f"✗ {one['problem']}"))
    new_console().print(table)


@app.command()
def params(
    notebook: Annotated[str, typer.Argument(help="A notebook's path, or its name.")],
    json_schema: Annotated[bool, typer.Option("--json-schema", help="Print JSON Schema instead of a table.")] = False,
) -> None:
    """Show the parameters that a notebook takes."""
    from lepton_kit.runs.notebooks import locate_notebook, read_notebook
    from lepton_kit.runs.parameters import json_schema as schema_of
    from lepton_kit.runs.parameters import read_parameters

    path = locate_notebook(notebook, find_project())
    parameters = read_parameters(read_notebook(path), path.name)
    if parameters is None:
        raise InputError(f"{path.name}: has no cell tagged 'parameters'")
    if json_schema:
        print(json.dumps(schema_of(parameters, path.stem), indent=2))
        return
    table = new_table("parameter", "type", "default", "meaning")
    for p in parameters:
        table.add_row(p.name, escape(p.annotation), escape(repr(p.default)), escape(p.help))
    new_console().print(table)


@app.command()
def run(
    notebooks: Annotated[list[str], typer.Argument(help="Paths or names of notebooks.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME VALUE", help="A value for a parameter; may be repeated."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE,…", help="Run once for every value; several sweeps give all combinations."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many notebooks run at once: 1, or as many as a cluster has threads.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on the workers of this dask scheduler; `none` runs here."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0.001, help="Time limit of a run, in seconds.")] = None,
    cell_timeout: Annotated[float | None, typer.Option(min=0.001, help="Time limit of a cell, in seconds.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="Retries after a timeout or a dead kernel.")] = 0,
    backoff: Annotated[float, typer.Option(min=0, help="Seconds before the first retry; then doubled each time.")] = 1,
    key: Annotated[str | None, typer.Option(help="Idempotency key: later calls with it return the same run.")] = None,
    keep_kernel_on_failure: Annotated[
        bool, typer.Option("--keep-kernel-on-failure", help="Keep the kernel of a failed run alive for debugging.")
    ] = False,
    keep_for: Annotated[float, typer.Option(min=1, help="Seconds that such a kernel stays alive.")] = 3600,
    events: Annotated[bool, typer.Option("--events", help="Print events as JSON lines, for programs.")] = False,
    kernel: KernelName = None,
) -> None:
    """Run notebooks with papermill, each in its own run folder."""
    from lepton_kit.runs.notebooks import locate_notebook
    from lepton_kit.runs.parameters import combinations
    from lepton_kit.runs.pool import run_all
    from lepton_kit.runs.progress import run_progress
    from lepton_kit.runs.runner import Options, Request, execute, prepare

    project = find_project()
    given = [_merged(_values(parameter or []), swept) for swept in combinations(sweep or [])]
    paths = [locate_notebook(name, project) for name in notebooks]
    requests = [Request(path, _from_here(values, path, project), kernel=kernel) for path in paths for values in given]
    plans = [prepare(request, project) for request in requests]
    if key is not None and len(plans) > 1:
        raise InputError(f"--key {key!r}: identifies one run, but this would start {len(plans)}")
    options = Options(cell_timeout, timeout, retries, backoff, key, keep_for if keep_kernel_on_failure else None)
    progress = run_progress(new_console(), len(plans), sys.stdout if events else None)
    with _place(cluster, project) as place, progress as tell:
        if place is not None:
            place.check(plans, options)
            runs = run_all(plans, project, min(workers or place.slots, len(plans)), tell, options, place)
        elif (workers or 1) > 1 and len(plans) > 1:
            runs = run_all(plans, project, workers or 1, tell, options)
        else:
            runs = [execute(plan, project, tell, options) for plan in plans]
    if not events:
        for made in runs:
            _print_end(made, project, with_results=True)
    _exit_unless_all_succeeded(runs)


@app.command()
def pipeline(
    name: Annotated[str, typer.Argument(help="Name of a pipeline in lepton.toml.")],
    force: Annotated[bool, typer.Option("--force", help="Also run steps that have not changed.")] = False,
    kernel: KernelName = None,
) -> None:
    """Run the steps of a pipeline; steps unchanged since their last success are skipped."""
    from lepton_kit.project.pipeline import find_pipeline, run_pipeline
    from lepton_kit.runs.progress import run_progress

    project = find_project()
    with run_progress(new_console(), len(find_pipeline(name, project).steps)) as tell:
        steps = run_pipeline(name, project, force=force, kernel=kernel, on_event=tell)
    _print_end(steps[-1].run, project)
    if steps[-1].run.status != "succeeded" and any(step.skipped for step in steps):
        say(f"  unchanged steps were skipped; `lepton pipeline {name} --force` runs them again")
    _exit_unless_all_succeeded([step.run for step in steps])


@app.command()
def runs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
    repair: Annotated[bool, typer.Option("--repair", help="Mark runs as failed whose process was killed.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs, newest first."""
    from lepton_kit.runs.ending import repair as repair_runs
    from lepton_kit.runs.manifest import all_runs

    if repair:
        repaired = repair_runs(find_project())
        for made in repaired:
            _print_end(made, find_project())
        say(f"repaired: {len(repaired)} runs")
        return
    found = all_runs(find_project())[:limit]
    if as_json:
        print(json.dumps([made.model_dump(mode="json", include=LISTED) for made in found], indent=1))
        return
    console = new_console()
    is_wide = console.width >= WIDE
    rows = []
    for made in found:
        took = "" if made.duration_s is None else f"{made.duration_s:.1f} s"
        called = [made.run_id] if is_wide else [short_id(made.run_id), made.name]
        rows.append([*called, made.status, f"{made.started:%Y-%m-%d %H:%M}", took, made.title])
    print_lines(
        console, [*(["run"] if is_wide else ["run", "notebook"]), "status", "started (UTC)", "took", "title"], rows
    )


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's id or the end of it, a notebook's name, or `latest`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show a run's parameters, inputs, results and artifacts."""
    from lepton_kit.runs.manifest import find_run

    project = find_project()
    made = find_run(run, project)
    if as_json:
        print(made.model_dump_json(indent=1))
        return
    facts = {
        "title": made.title, "notebook": made.notebook, "status": made.status, "trigger": made.trigger,
        "started": f"{made.started:%Y-%m-%d %H:%M:%S} UTC", "took": f"{made.duration_s} s",
        "folder": str(made.folder(project)),
    }  # fmt: skip
    facts |= {"worker": made.environment.worker} if made.environment.worker else {}
    facts |= {"ended early": made.ended_early} if made.ended_early else {}
    print_pairs(made.run_id, facts)
    print_pairs("parameters", made.parameters)
    print_pairs("inputs", {i.ref: f"sha256 {i.sha256[:12]}" if i.sha256 else "" for i in made.inputs})
    print_pairs("results", {name: result.line for name, result in made.results.items()})
    print_pairs("expectations", {e.message: "met" if e.passed else f"BROKEN {e.values}" for e in made.expectations})
    print_pairs("artifacts", {a.file: f"{a.bytes:,} bytes, sha256 {a.sha256[:12]}" for a in made.artifacts})
    if made.error:
        print_pairs("error", {f"code cell {made.error.cell}": f"{made.error.name}: {made.error.message}"})


@app.command()
def check(
    what: Annotated[
        list[str] | None, typer.Argument(help="Runs or notebooks; all of the project's if omitted.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Execute the notebooks and save their new outputs.")] = False,
    kernel: KernelName = None,
) -> None:
    """Repeat runs or committed notebooks in a fresh kernel with nbval and report whether the outputs agree."""
    from lepton_kit.runs.check import check_notebook, check_run, update_outputs
    from lepton_kit.runs.manifest import find_run
    from lepton_kit.runs.notebooks import TEXT, find_notebooks, is_text, locate_notebook

    project = find_project()
    failed = 0
    own = [str(path) for path in find_notebooks(project) if path.is_relative_to(project) and not is_text(path)]
    names = what or own
    for name in names:
        is_notebook = name.endswith((".ipynb", *TEXT))
        if update:
            update_outputs(locate_notebook(name, project), project, kernel)
            say(f"{name}: outputs updated")
            continue
        try:
            made = (
                check_notebook(locate_notebook(name, project), project, kernel)
                if is_notebook
                else check_run(find_run(name, project, only="succeeded"), project, kernel)
            )
        except InputError as error:
            if len(names) == 1:
                raise
            failed += 1  # the others are checked all the same
            say(f"✗ {error}")
            continue
        failed += not made.passed
        say(f"{'✓' if made.passed else '✗'} {made.name}: {'reproduces' if made.passed else 'differs'}")
        for difference in made.differences:
            say(f"  {made.name}: {difference}")
        if not made.passed and not made.differences:
            say(made.report)
    if failed:
        raise typer.Exit(1)


@app.command()
def resume(run: Annotated[str, typer.Argument(help="A run that did not succeed.")], kernel: KernelName = None) -> None:
    """Resume a run that did not succeed, from its checkpoints."""
    from lepton_kit.runs.manifest import find_run
    from lepton_kit.runs.progress import run_progress
    from lepton_kit.runs.repeat import resume as resume_run

    project = find_project()
    with run_progress(new_console(), 1) as tell:
        made = resume_run(find_run(run, project), project, tell, kernel=kernel)
    _print_end(made, project)
    _exit_unless_all_succeeded([made])


@app.command()
def verify(
    run: Annotated[str | None, typer.Argument(help="A run that succeeded.")] = None,
    incident: Annotated[
        str | None, typer.Option(metavar="ID", help="Verify what the page of an incident says, in a run's place.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --incident: print JSON.")] = False,
) -> None:
    """Repeat a run from its manifest and compare every result; the exit status is 1 where one differs."""
    if (run is None) == (incident is None) or (as_json and incident is None):
        raise InputError("verify: give a run, or --incident ID [--json]")
    if incident is not None:
        return incidents.verify_incident(incident, as_json)
    from lepton_kit.runs.manifest import find_run
    from lepton_kit.runs.progress import run_progress
    from lepton_kit.runs.repeat import verify as verify_run

    project = find_project()
    with run_progress(new_console(), 1) as tell:
        found = verify_run(find_run(str(run), project, only="succeeded"), project, tell)
    _print_end(found.repeated, project)
    for pair in found.results:
        mark = "✓" if pair.verdict in ("same", "not compared") else "✗"
        say(f"{mark} {pair.name}: {pair.verdict}")
        for difference in pair.differences:
            say(f"  {difference}")
    say(f"{found.run.run_id}: {'same' if found.is_same else 'different'}")
    if not found.is_same:
        raise typer.Exit(1)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(help="A run.")],
    after: Annotated[str, typer.Argument(help="Another run.")],
    page: Annotated[Path | None, typer.Option("--html", help="Also write the comparison to this HTML file.")] = None,
) -> None:
    """Compare two runs: parameters, inputs, versions, results with their tolerances, sources and outputs."""
    from lepton_kit.files import write_atomically
    from lepton_kit.runs.diff import diff as diff_runs
    from lepton_kit.runs.manifest import find_run

    project = find_project()
    found = diff_runs(find_run(before, project), find_run(after, project), project)
    console = new_console(record=page is not None)
    for heading, (columns, rows) in found.sections().items():
        table = new_table(*columns)
        table.title, table.title_justify = heading, "left"
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    console.print(found.notebook or "sources and outputs: the same", markup=False, highlight=False, soft_wrap=True)
    if page:
        write_atomically(page, console.export_html())
        say(f"page: {page}")
    if not found.is_same:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; an error that a person can fix is one message, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without ✓ shows ?
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop ends runs as Ctrl-C does
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(app(args=join_parameters(sys.argv[1:]), prog_name="lepton", standalone_mode=True))
    except KeyboardInterrupt:
        sys.exit(130)
    except LeptonError as error:
        message = f"[red]error:[/] {escape(str(error))}"
        new_console(stderr=True).print(message, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


def join_parameters(arguments: list[str]) -> list[str]:
    """Join `-p NAME VALUE`, as papermill writes it, to the single word `NAME=VALUE` that Typer can take repeatedly.

    Examples
    --------
    >>> join_parameters(["run", "a.ipynb", "-p", "days", "-3", "-p", "name=x"])
    ['run', 'a.ipynb', '-p', 'days=-3', '-p', 'name=x']
    """
    joined: list[str] = []
    rest = iter(arguments)
    for word in rest:
        joined.append(word)
        if word in ("-p", "--parameter"):
            name = next(rest, None)
            if name is not None:
                value = None if "=" in name else next(rest, None)
                joined.append(name if value is None else f"{name}={value}")
    return joined


def _place(cluster: str | None, project: Path) -> AbstractContextManager[Cluster | None]:
    """Connect to the cluster that was given, or that lepton.toml names; None is this machine."""
    if cluster is None and setting(project, "cluster"):
        from lepton_kit.project.settings import read_settings

        cluster = read_settings(project).cluster.address
    if cluster in (None, "none"):
        return nullcontext()
    from lepton_kit.runs.cluster import connected

    return connected(cluster)


def _values(given: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"parameter {name!r} (from -p): no value given; write -p NAME VALUE")
        if name in values:
            raise InputError(f"parameter {name!r} (from -p): given twice, {values[name]!r} and {value!r}")
        values[name] = value
    return values


def _merged(values: dict[str, str], swept: dict[str, str]) -> dict[str, str]:
    for name in values.keys() & swept.keys():
        raise InputError(f"parameter {name!r}: given both by -p and by --sweep")
    return {**values, **swept}


def _from_here(values: dict[str, str], notebook: Path, project: Path) -> dict[str, str]:
    """Turn paths relative to the working directory, as a shell completes them, into ones relative to the project."""
    from lepton_kit.runs.notebooks import read_notebook
    from lepton_kit.runs.parameters import read_parameters

    parameters = read_parameters(read_notebook(notebook), notebook.name) or []
    paths = {p.name for p in parameters if p.holds_path}
    return {name: _relative(text, project) if name in paths else text for name, text in values.items()}


def _relative(text: str, project: Path) -> str:
    path = Path.cwd() / text
    if not text or Path.cwd() == project or "\n" in text or not path.exists():
        return text
    resolved = path.resolve()
    return str(resolved.relative_to(project) if resolved.is_relative_to(project) else resolved)


def _print_end(made: Manifest, project: Path, with_results: bool = False) -> None:
    from lepton_kit.reports.facts import conclusion, headlines

    colour = COLOURS.get(made.status, "red")
    new_console().print(f"[{colour}]{made.status}[/] {made.run_id}", highlight=False)
    for title, value in [*conclusion(made), *headlines(made)] if with_results else []:
        say(f"  {title}: {value}")
    if made.ended_early:
        say(f"  ended early: {made.ended_early}")
    if made.error:
        where = f"code cell {made.error.cell}: " if made.error.cell is not None else ""
        say(f"  {where}{made.error.name}: {made.error.message}")
    say(f"  {made.folder(project)}")


def _exit_unless_all_succeeded(runs: list[Manifest]) -> None:
    if any(made.status != "succeeded" for made in runs):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
