"""Which versions of a model a service has, which one was in service, and their files to replay requests through."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lepton_kit.data.profiles import Profile, read_profile
from lepton_kit.errors import InputError
from lepton_kit.files import read_object
from lepton_kit.models.flavors import BESIDE, CARD, CHECKSUMS, PROFILE, REFERENCE, load_model
from lepton_kit.models.registry import COMPRESSED_FROM, Registry, verify_checksums
from lepton_kit.models.tasks import task_of
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.recordings import Versions, printable

RECENT = 200
"""The version that answered most of this many last requests is the one in service."""


@dataclass
class Served:
    """What is known of a service's versions, and how it was come by."""

    versions: Versions = field(default_factory=lambda: Versions(current="unknown"))
    models: dict[str, Path] = field(default_factory=dict)
    checksums: dict[str, bool] = field(default_factory=dict)
    reference: pd.DataFrame | None = None
    profile: Profile | None = None
    measured: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)

    @contextmanager
    def noting(self, what: str, folder: Path) -> Iterator[None]:
        """Note missing data and the error behind it, without the path of this machine (`folder`)."""
        try:
            yield
        except (InputError, OSError) as error:
            said = str(error).replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
            self.derived.append(f"{what} ({printable(said.replace(str(folder), folder.name), 200)})")


def served_models(declaration: Declaration, project: Path, handled: Sequence[str], scratch: Path) -> Served:
    """Find the versions of a service, and copy their files into the folder `scratch`.

    `handled` are the versions that took requests, the last one last.
    """
    served = Served()
    places = _registered(declaration, project, handled, served)
    if places is None:
        places = _declared(declaration, project, handled, served)
    _copy(places, declaration, scratch, served)
    return served


def _current(handled: Sequence[str], otherwise: str | None, where: str, served: Served) -> str:
    recent = pd.Series(list(handled[-RECENT:]), dtype="object")
    if len(recent):
        current = str(recent.mode().iloc[-1])
        served.derived.append(f"version in service: {current} took most of the last {len(recent)} requests")
        return as_version(current)
    if otherwise is None:
        served.derived.append("version in service: unknown, as neither requests nor the declaration name one")
        return "unknown"
    served.derived.append(f"version in service: {otherwise}, as {where} says; no request in the window names one")
    return as_version(otherwise)


def _registered(
    declaration: Declaration, project: Path, handled: Sequence[str], served: Served
) -> dict[str, Path] | None:
    """Return the folders of the versions of a model in the registry; None where it is in none."""
    model, registry = declaration.registered, Registry(project / declaration.registry)
    if model is None:
        return None
    promoted = last_good = None
    with served.noting("version in use: unknown", registry.root):
        promoted = registry.current(model)
    current = _current(handled, promoted, "the registry", served)
    with served.noting("no last good version", registry.root):
        last_good = registry.incumbent(model, current)
        served.derived.append(
            f"last good version: {last_good}, promoted before and not rolled back"
            if last_good
            else f"no last good version: the registry knows no promotion but that of {current}"
        )
    places = {}
    for version in dict.fromkeys(one for one in (current, last_good) if one):
        with served.noting(f"models/{version}: left out", registry.root):
            places[version] = registry.folder(model, version)
    stands_in_for = _original(places.get(current), current, served)
    served.versions = Versions(current=current, last_good=last_good, stands_in_for=stands_in_for)
    return places


def _original(place: Path | None, version: str, served: Served) -> str | None:
    """Return the version that a compressed one was made from, by the card in its folder."""
    original = None
    if place is not None and (place / CARD).is_file():
        with served.noting(f"whether {version} stands in for another: unknown", place.parent):
            original = read_object(place / CARD).get(COMPRESSED_FROM)
    if original:
        served.derived.append(f"{version} stands in for {original}: its card says that it was compressed from it")
    return as_version(str(original)) if original else None


def _declared(declaration: Declaration, project: Path, handled: Sequence[str], served: Served) -> dict[str, Path]:
    """Return the places of declared versions. A folder is called as its version is, a link as what it leads to."""
    model = declaration.model
    if model is None or isinstance(model, str):
        served.versions = Versions(current=_current(handled, None, "", served))
        served.derived.append("no models: the declaration names none")
        return {}
    named = {"current": model.current, "last_good": model.last_good}
    places = {role: _place(one, project) for role, one in named.items() if one is not None}
    if "last_good" in places and "://" not in str(model.last_good) and not places["last_good"].exists():
        served.derived.append(f"no last good version: {model.last_good} is not there")
        del places["last_good"]
    names = {role: as_version(place.name) for role, place in places.items()}
    current = _current(handled, names["current"], "the declaration", served)
    last_good = names.get("last_good")
    chosen = {last_good: places["last_good"]} if last_good else {}
    beside = places["current"].parent / current
    if current == names["current"] or current == last_good:
        chosen |= {names[role]: place for role, place in places.items()}
    elif beside.exists() and beside != places["current"]:
        chosen[current] = beside
    else:
        served.derived.append(f"models/{current}: taken from {model.current}, which is declared as the one in service")
        chosen[current] = places["current"]
    earlier = last_good if last_good != current else None
    if earlier is None and names["current"] != current and last_good == current:
        served.derived.append(f"no last good version: {current}, which is declared as such, is in service")
    stands_in_for = _original(chosen.get(current), current, served)
    served.versions = Versions(current=current, last_good=earlier, stands_in_for=stands_in_for)
    return {version: place for version, place in chosen.items() if version in (current, earlier)}


def _place(place: str, project: Path) -> Path:
    """Return where a version is: a folder or a file, or an address, which is a path only by name."""
    return Path(place) if "://" in place else Path(os.path.realpath(project / place))


def _copy(places: dict[str, Path], declaration: Declaration, scratch: Path, served: Served) -> None:
    """Copy the files of the versions; one that cannot be loaded is left out, and named."""
    task = None if declaration.task is None else task_of(declaration.task)
    flavor = None if isinstance(declaration.model, str | None) else declaration.model.flavor
    for version, place in places.items():
        if ":/" in str(place):
            served.derived.append(f"models/{version}: not copied, as it answers at an address")
            continue
        with served.noting(f"models/{version}: left out", place.parent):
            if not place.exists():
                raise InputError(f"{place.name}: no such folder")
            copied = _copied(place, scratch / version)
            load_model(copied, task, flavor)
            served.models[version] = copied
        if version in served.models and (place / CHECKSUMS).is_file():
            served.checksums[version] = False
            with served.noting(f"models/{version}: its checksums do not hold", place.parent):
                verify_checksums(place)
                served.checksums[version] = True
    if served.models:
        hold = "; their checksums hold" if served.checksums and all(served.checksums.values()) else ""
        served.measured.append(f"models: {', '.join(served.models)}, copied{hold}")
    _keep_reference(places.get(served.versions.current), served)
    _keep_profile(places.get(served.versions.current), served)


def _copied(place: Path, target: Path) -> Path:
    if place.is_file():
        target.mkdir()
        shutil.copy(place, target)
    else:
        shutil.copytree(place, target, ignore=shutil.ignore_patterns(*BESIDE, ".*"))
    return target


def _keep_profile(place: Path | None, served: Served) -> None:
    if served.versions.current not in served.models or place is None or not (place / PROFILE).is_file():
        return
    with served.noting("no profile of the training rows", place.parent):
        served.profile = read_profile(place / PROFILE)
        served.measured.append(f"profile: of {served.profile.rows} rows that {served.versions.current} learnt from")


def _keep_reference(place: Path | None, served: Served) -> None:
    path = None if place is None else place / REFERENCE
    if path is None or not path.is_file():
        served.derived.append("no reference rows: none lie beside the version in service")
        return
    try:
        served.reference = pd.read_parquet(path).rename(columns=str)
    except (OSError, ValueError) as error:
        served.derived.append(
            f"no reference rows: {path.name} is not readable as Parquet ({printable(str(error), 100)})"
        )
        return
    served.measured.append(f"reference: {len(served.reference)} rows that {served.versions.current} learnt from")


def as_version(text: str) -> str:
    """Return a version's name as one that can be a folder's.

    >>> as_version("models:/fraud/3")
    'models-fraud-3'
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100]
    return plain or "unknown"
