"""`lepton publish`, `unpublish` and `report`: executed notebooks as a website."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lepton_kit.commands.terminal import say
from lepton_kit.errors import InputError
from lepton_kit.runs.project import find_project

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lepton_kit.reports.cards import LeftOut
    from lepton_kit.runs.manifest import Manifest

Full = Annotated[bool, typer.Option("--full", help="Render every page again, changed or not.")]


def publish(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs: their ids, the ends of these, or notebooks' names. With --drills, files of results."
        ),
    ] = None,
    incident: Annotated[
        list[str] | None, typer.Option(help="An incident's id, or the end of it; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model of the registry, or MODEL@VERSION; may be repeated.")
    ] = None,
    drills: Annotated[
        bool, typer.Option("--drills", help="Results of drills: the files given (*.json), or the newest in drills/.")
    ] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also make a PDF of each incident.")] = False,
) -> None:
    """Publish runs, incidents, models and drills as pages of the report site."""
    from lepton_kit.reports.publish import LeftOutError, publish_runs
    from lepton_kit.runs.manifest import find_run

    project = find_project()
    if not (runs or incident or model or drills):
        raise InputError("nothing to publish: name runs, or use --incident, --model or --drills")
    if pdf and not incident:
        raise InputError("--pdf: only incidents have a PDF; name one with --incident")
    if incident:
        from lepton_kit.ops.incident_pages import publish_incident  # pandas takes a second that a run's page need not
        from lepton_kit.ops.watch.queue import Queue

        for id in incident:
            publish_incident(project, Queue(project).find(id).id, with_pdf=pdf)
    results = [name for name in runs or [] if drills and name.endswith(".json")]
    named = [name for name in runs or [] if name not in results]
    chosen = {made.run_id: made for made in (find_run(name, project) for name in named)}
    for made in chosen.values():
        if made.ended is None:
            raise InputError(f"run {made.run_id!r}: has not ended; publish it when it has")
    left_out: list[LeftOut] = []
    try:
        publish_runs(project, list(chosen.values()))
    except LeftOutError as error:
        left_out += error.pages
    if model:
        from lepton_kit.ops.executed_pages import publish_model

        for name in model:
            publish_model(project, name)
    if drills:
        from lepton_kit.ops.drill_results import newest_results
        from lepton_kit.ops.executed_pages import publish_drills

        for path in map(Path, results) if results else [newest_results(project / "drills")]:
            publish_drills(project, path)
    _build(project)
    if left_out:
        raise LeftOutError(left_out)


def unpublish(
    pages: Annotated[
        list[str], typer.Argument(help="Ids of runs, incidents or drills, the ends of these, or MODEL@VERSION.")
    ],
) -> None:
    """Remove pages and their files from the report site."""
    from lepton_kit.reports.publish import unpublish as take_away

    project = find_project()
    take_away(project, pages)
    _build(project)


def report(
    serve: Annotated[bool, typer.Option("--serve", help="Show the site at an address of this machine.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --serve; 0 takes a free one.")] = 4200,
    full: Full = False,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Make the PDFs of published incidents that have none, or have changed.")
    ] = False,
) -> None:
    """Publish each notebook's newest run and the models in use, and render the site (plain HTML without Quarto)."""
    from lepton_kit.ops.executed_pages import publish_promoted
    from lepton_kit.reports.publish import LeftOutError, publish_runs

    project = find_project()
    if pdf:
        from lepton_kit.ops.incident_pages import publish_pdfs

        publish_pdfs(project)
    try:
        publish_runs(project, _newest_of_each_notebook(project))
    except LeftOutError as error:
        _name(error.pages)
    publish_promoted(project)
    site = _build(project, is_full=full)
    if serve:
        _serve(site, port)


def _newest_of_each_notebook(project: Path) -> list[Manifest]:
    from lepton_kit.runs.manifest import finished_runs

    newest: dict[str, Manifest] = {}
    for made in finished_runs(project):
        if made.trigger != "publish":  # the pages of models and of drills, which are listed as such
            newest.setdefault(made.name, made)
    if not newest:
        raise InputError(f"no finished run in {project / 'runs'}: run a notebook first, such as `lepton run 00-tour`")
    return list(newest.values())


def _build(project: Path, is_full: bool = False) -> Path:
    from lepton_kit.reports.site import build_site

    site = build_site(project, is_full=is_full)
    _name(site.left_out)
    if site.note:
        say(site.note)
    rendered = f"{site.pages} pages, {len(site.rendered)} of them rendered now, by {site.tool}"
    say(f"report ({rendered}): {site.index}")
    return site.folder


def _name(left_out: Iterable[LeftOut]) -> None:
    """Say which pages the site does without."""
    for one in left_out:
        typer.echo(str(one), err=True)


def _serve(site: Path, port: int) -> None:
    """Show the site until Ctrl-C, to this machine alone."""
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    # A path, not an open folder: a site that is built meanwhile takes this one's place.
    with ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=str(site))) as server:
        say(f"serving {site} at http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)")
        server.serve_forever()
