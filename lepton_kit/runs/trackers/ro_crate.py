"""Packs runs as RO-Crates (1.1, profile Process Run Crate 0.5): the files of a run, and in JSON-LD what made them."""

from __future__ import annotations

import json
import mimetypes
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lepton_kit import __version__
from lepton_kit.runs.manifest import NOTEBOOK
from lepton_kit.runs.trackers.base import Run, folder_in, tracker

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
METADATA = "ro-crate-metadata.json"


@tracker("ro-crate")
def _to_crate(run: Run, target: str) -> str:
    """Copy a run's files into a folder of its own, with their description; one that is there is as it was."""
    folder = folder_in(target, "ro-crate") / run.manifest.run_id
    if folder.exists():
        return str(folder)
    half = folder.with_name(f".{folder.name}")
    shutil.rmtree(half, ignore_errors=True)
    for name, path in run.files.items():
        (half / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, half / name)
    described = {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": _graph(run)}
    (half / METADATA).write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    half.rename(folder)
    return str(folder)


def _graph(run: Run) -> list[dict[str, Any]]:
    manifest, files = run.manifest, list(run.files)
    started, ended = _time(manifest.started), _time(manifest.ended or manifest.started)
    inputs = [  # described, not packed: what a run read stays where it is
        _entity(f"#input-{place}", "CreativeWork", name=one.ref, **({"sha256": one.sha256} if one.sha256 else {}))
        for place, one in enumerate(manifest.inputs)
    ]
    parameters = [
        _entity(f"#parameter-{name}", "PropertyValue", name=name, value=json.dumps(value, ensure_ascii=False))
        for name, value in manifest.parameters.items()
    ]
    status = "CompletedActionStatus" if manifest.status == "succeeded" else "FailedActionStatus"
    action = _entity(
        f"#{manifest.run_id}", "CreateAction", name=f"Run of {manifest.notebook}",
        startTime=started, endTime=ended,
        description=f"The run {manifest.run_id}",
        instrument=_to("#notebook"), object=[_to(one["@id"]) for one in (*inputs, *parameters)],
        result=[_to(quote(name)) for name in files],
        actionStatus=f"http://schema.org/{status}", agent=_to("#lepton-kit"),
        **({"error": f"{manifest.error.name}: {manifest.error.message}"} if manifest.error else {}),
    )  # fmt: skip
    root = _entity(
        "./", "Dataset", name=manifest.title, description=f"The run {manifest.run_id} of {manifest.notebook}",
        datePublished=ended, license="The run states no license", conformsTo=_to(PROFILE), mentions=_to(action["@id"]),
        hasPart=[_to(quote(name)) for name in files],
    )  # fmt: skip
    return [
        _entity(METADATA, "CreativeWork", conformsTo=_to("https://w3id.org/ro/crate/1.1"), about=_to("./")),
        root, action, *inputs, *parameters,
        _entity(PROFILE, "CreativeWork", name="Process Run Crate", version="0.5"),
        _entity("#notebook", "SoftwareSourceCode", name=manifest.notebook, version=manifest.notebook_sha256[:12]),
        _entity("#lepton-kit", "SoftwareApplication", name="Lepton Kit", softwareVersion=__version__),
        *(_file(name, run.files[name]) for name in files),
    ]  # fmt: skip


def _file(name: str, path: Path) -> dict[str, Any]:
    kind = (
        "application/x-ipynb+json" if name == NOTEBOOK else mimetypes.guess_type(name)[0] or "application/octet-stream"
    )
    return _entity(quote(name), "File", name=name, contentSize=str(path.stat().st_size), encodingFormat=kind)


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _entity(identity: str, kind: str, **about: Any) -> dict[str, Any]:
    return {"@id": identity, "@type": kind, **about}


def _to(identity: str) -> dict[str, str]:
    return {"@id": identity}
