"""The registry: `models/<name>/<version>/`, immutable folders with checksums, and the history of promotions.

models/goog/v1/   the files of the model, of whichever flavor; card.json; SHA256SUMS; and where they were given
                  golden.parquet     a few rows, and what the model answered to them
                  reference.parquet  a sample of the rows that it learnt from
                  profile.json       the profile of all these rows, which drift is measured against
models/goog/history.jsonl  every promotion and rollback: what, when, why, by which run; it alone says which version
                  is current, so that no interruption leaves two files that contradict each other
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lepton_kit.data.profiles import profile_of
from lepton_kit.errors import InputError
from lepton_kit.files import locked, read_lines, read_object, sha256_of, write_atomically, write_json
from lepton_kit.models.flavors import (
    BESIDE,
    CARD,
    CHECKSUMS,
    GOLDEN,
    PROFILE,
    REFERENCE,
    LoadedModel,
    Model,
    load_model,
)
from lepton_kit.models.golden import AGREEMENT, golden_deviation, golden_examples
from lepton_kit.models.tasks import Task
from lepton_kit.telemetry.recordings import FEATURE

MOST_REFERENCE = 2000
COMPRESSED_FROM = "compressed_from"
"""The line of a model card that names the version which a smaller one stands in for."""
VERSION = re.compile(r"v[1-9][0-9]*")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Registry:
    """All versions of all models under one folder, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def save(
        self,
        name: str,
        model: Model,
        card: Mapping[str, Any],
        golden: pd.DataFrame | None = None,
        reference: pd.DataFrame | None = None,
    ) -> str:
        """Keep a model as a new version, and return that version.

        The very same model learnt from the same data is not kept twice: the version that holds it is returned.

        Parameters
        ----------
        card
            The model card: parameters, metrics, the run that made it, and under `data` what it was learnt from, such
            as hashes and days; under `compressed_from` the version that it stands in for, where it is a smaller model
            of one; `created` (UTC) is added.
        reference
            Rows that the model learnt from: its features, and `actual`. At most `MOST_REFERENCE` are kept, evenly
            taken; their profile, which drift is measured against, is of all of them.
        """
        with self._locked(name) as home, _temporary_folder(home) as draft:
            model.save(draft)
            for version in self.versions(name):
                if _hashes(home / version) == _hashes(draft) and self.card(name, version).get("data") == card.get(
                    "data"
                ):
                    return version
            created = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(draft / CARD, {"name": name, "created": created, "task": model.task.name, **card})
            if golden is not None:
                golden.to_parquet(draft / GOLDEN, index=False, compression="zstd")
            if reference is not None:
                profile_of(reference).save(draft / PROFILE)
                step = max(1, -(-len(reference) // MOST_REFERENCE))
                sample = reference.iloc[::step].reset_index(drop=True)
                sample.to_parquet(draft / REFERENCE, index=False, compression="zstd")
            _write_checksums(draft)
            version = f"v{max((int(v[1:]) for v in self.versions(name)), default=0) + 1}"
            draft.rename(home / version)
        return version

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model, oldest first."""
        home = self._home(name)
        found = [folder.name for folder in home.iterdir()] if home.is_dir() else []
        return sorted((version for version in found if VERSION.fullmatch(version)), key=lambda v: int(v[1:]))

    def folder(self, name: str, version: str = "current") -> Path:
        """Return the folder of a version; InputError when there is no such version, or none is current."""
        if version == "current":
            promoted = self.current(name)
            if promoted is None:
                raise InputError(f"model {name!r} in {self.root}: no version has been promoted yet")
            version = promoted
        if version not in self.versions(name):
            known = ", ".join(self.versions(name)) or "none"
            raise InputError(f"model {name!r} in {self.root}: no version {version!r}; there are {known}")
        return self._home(name) / version

    def verify(self, name: str, version: str = "current") -> Path:
        """Compare a version's files with its checksums, and return its folder.

        Raises InputError when a file is missing, added or changed; the message names it.
        """
        folder = self.folder(name, version)
        verify_checksums(folder)
        return folder

    def load(self, name: str, version: str = "current") -> Model:
        """Return a version's model, of whichever flavor, after checking its files."""
        return load_model(self.verify(name, version))

    def card(self, name: str, version: str = "current") -> dict[str, Any]:
        """Return a version's model card."""
        return read_object(self.folder(name, version) / CARD)

    def golden(self, name: str, version: str = "current") -> pd.DataFrame | None:
        """Return a version's golden rows and answers, as `golden_examples` gives them, or None where none were kept."""
        return self._table(name, version, GOLDEN)

    def reference(self, name: str, version: str = "current") -> pd.DataFrame | None:
        """Return the sample of rows that a version learnt from, or None where none was kept.

        Raises InputError when there is no such version, or the file is damaged.
        """
        return self._table(name, version, REFERENCE)

    def current(self, name: str) -> str | None:
        """Return the version in use, or None where none has been promoted; InputError when the history is damaged."""
        return next(reversed(self._promoted(name)), None)

    def promote(self, name: str, version: str, run_id: str, reason: str) -> None:
        """Make a version the current one, after checking its files; where it is already, nothing changes."""
        with self._locked(name):
            self.verify(name, version)
            if self.current(name) != version:
                self._note(name, version, "promote", run_id, reason)

    def rollback(self, name: str, run_id: str, reason: str) -> str:
        """Make the version that was current before this one current again, and return it: always another one.

        Raises InputError when there is none, or it is damaged.
        """
        with self._locked(name):
            stack = self._promoted(name)
            earlier = [version for version in stack[:-1] if version != stack[-1]]
            if not earlier:
                raise InputError(f"model {name!r} in {self.root}: no earlier version to go back to")
            self.verify(name, earlier[-1])
            self._note(name, earlier[-1], "rollback", run_id, reason)
            return earlier[-1]

    def incumbent(self, name: str, candidate: str) -> str | None:
        """Return the version that a candidate must beat: the last one promoted and not rolled back, itself apart.

        So evaluating a candidate again after its promotion asks the same question as before it.
        """
        others = [version for version in self._promoted(name) if version != candidate]
        return others[-1] if others else None

    def compressed(self, name: str, version: str = "current") -> str | None:
        """Return the newest version that was compressed from this one, or None where there is none.

        A compressed version is one like any other; its card names its teacher under `compressed_from`.

        Raises InputError when there is no such version, or a card is damaged.
        """
        teacher = self.folder(name, version).name
        students = [one for one in self.versions(name) if self.card(name, one).get(COMPRESSED_FROM) == teacher]
        return students[-1] if students else None

    def history(self, name: str) -> list[dict[str, Any]]:
        """Return every promotion and rollback, oldest first.

        Raises InputError when a line of the file is damaged; the message names it.
        """
        return read_lines(self._home(name) / "history.jsonl", "a promotion or rollback of a version", _check_entry)

    def _table(self, name: str, version: str, file: str) -> pd.DataFrame | None:
        path = self.folder(name, version) / file
        if not path.is_file():
            return None
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not readable as Parquet ({error})") from error

    def _promoted(self, name: str) -> list[str]:
        """Return the promotions that have not been rolled back, oldest first."""
        stack: list[str] = []
        for entry in self.history(name):
            if entry["action"] == "promote":
                stack.append(entry["version"])
                continue
            stack = stack[:-1]
            while stack and stack[-1] != entry["version"]:  # the same version twice in a row is one promotion
                stack.pop()
            if not stack:
                raise InputError(f"{self._home(name) / 'history.jsonl'}: holds a rollback with no promotion before it")
        return stack

    def _note(self, name: str, version: str, action: str, run_id: str, reason: str) -> None:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"time": time, "action": action, "version": version, "run_id": run_id, "reason": reason}
        lines = [json.dumps(line) for line in [*self.history(name), entry]]
        write_atomically(self._home(name) / "history.jsonl", "\n".join(lines) + "\n")

    def _home(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise InputError(f"model name {name!r}: must be small letters, digits, '-' and '_', such as 'goog'")
        return self.root / name

    @contextmanager
    def _locked(self, name: str) -> Iterator[Path]:
        """Let one process at a time change a model's folder."""
        home = self._home(name)
        with locked(home / ".lock"):
            yield home


def read_candidate(path: Path) -> dict[str, Any]:
    """Return what a run says of a version (`candidate.json`, `decision.json`): at least its `name` and `version`.

    Raises InputError when the file is not a JSON object with a name and a version.
    """
    content = read_object(path)
    for key in ("name", "version"):
        if not isinstance(content.get(key), str):
            raise InputError(f"{path}: lacks the text {key!r} of a model in the registry")
    return content


def verify_checksums(folder: Path) -> None:
    """Compare the files of a folder with its `SHA256SUMS`, as `sha256sum --check` does, and look for added ones.

    Raises InputError when a file is missing, added or changed; the message names it.
    """
    for name, expected in _read_checksums(folder / CHECKSUMS).items():
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: missing, though {CHECKSUMS} lists it; restore or train the model again")
        found = sha256_of(folder / name)
        if found != expected:
            raise InputError(
                f"{folder / name}: has been changed (SHA-256 {found[:12]}…, {CHECKSUMS} says {expected[:12]}…); "
                "restore or train the model again"
            )
    added = set(_files(folder)) - set(_read_checksums(folder / CHECKSUMS)) - {CHECKSUMS}
    if added:
        raise InputError(f"{folder / min(added)}: not listed in {CHECKSUMS}; a version's folder is never added to")


def _read_checksums(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; a version without checksums is not used")
    listed = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        matched = re.fullmatch(r"([0-9a-f]{64})  ([A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*)", line)
        if not matched or ".." in matched[2].split("/"):
            raise InputError(f"{path}: line {line[:80]!r} is not '<sha256>  <file>'")
        listed[matched[2]] = matched[1]
    if CARD not in listed or not set(listed) - BESIDE:
        raise InputError(f"{path}: does not list {CARD} and the files of a model")
    return listed


def _write_checksums(folder: Path) -> None:
    text = "".join(f"{sha256_of(file)}  {name}\n" for name, file in _files(folder).items())
    (folder / CHECKSUMS).write_text(text, encoding="utf-8")


def _files(folder: Path) -> dict[str, Path]:
    """Return all files of a folder by their names in it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file for file in files}


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of the model's own files: the same ones are the same model."""
    return {name: sha256_of(file) for name, file in _files(folder).items() if name not in BESIDE}


@contextmanager
def _temporary_folder(home: Path) -> Iterator[Path]:
    """Give a sibling of the versions to write in; unless it has been renamed, it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=home, prefix=".saving-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_entry(entry: dict[str, Any]) -> None:
    if entry["action"] not in ("promote", "rollback") or not VERSION.fullmatch(entry["version"]):
        raise ValueError(entry["action"])


TARGETS = ("actual", "target")
"""What the column of a reference table that came true is called, unless it is given."""


def register(
    registry: Registry,
    name: str,
    place: Path,
    task: Task | None = None,
    flavor: str | None = None,
    reference: Path | None = None,
    golden: Path | None = None,
    target: str | None = None,
    note: str = "",
) -> str:
    """Keep a model of any flavor as a new version, not promoted, and return that version.

    Parameters
    ----------
    reference
        A table (Parquet or CSV) of rows that it learnt from: its features, and what came true.
    golden
        A table of rows and the answers that it must give: its features (`<name>` or `feature_<name>`) and the columns
        of its task. Without one, its answers to the last rows of the reference are kept.
    target
        The column of `reference` that came true; `actual` or `target` unless given.

    Raises
    ------
    InputError
        When it cannot be loaded, does not answer the rows, answers otherwise than the golden answers, or a column is
        missing. Nothing is kept then.
    """
    model = load_model(place, task, flavor)
    learnt = None if reference is None else _reference(read_table(reference), model, target)
    if isinstance(model, LoadedModel):
        model = _described(model, learnt)
    if learnt is not None:
        model.predict(learnt[list(model.columns)].tail(5))
    examples = None
    if golden is not None:
        examples = _golden(read_table(golden), model)
        if not (apart := golden_deviation(model, examples)) <= AGREEMENT:
            raise InputError(f"{golden}: the model answers otherwise; the largest relative deviation is {apart:.2g}")
    elif learnt is not None:
        examples = golden_examples(model, learnt[list(model.columns)])
    card: dict[str, Any] = {"purpose": note, "limits": "", "data": None, "flavor": getattr(model, "flavor", "kit")}
    with tempfile.TemporaryDirectory() as scratch:
        model.save(Path(scratch))
        load_model(scratch)  # what is kept must load by itself
    return registry.save(name, model, card, examples, learnt)


def read_table(path: Path) -> pd.DataFrame:
    """Return a table of a Parquet or CSV file; InputError where it is none."""
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table, Parquet or .csv ({error})") from error


def _reference(table: pd.DataFrame, model: Model, target: str | None) -> pd.DataFrame:
    known = [name for name in ([target] if target else TARGETS) if name in table]
    if not known:
        raise InputError(f"reference: has no column {target or ' or '.join(TARGETS)}; it must say what came true")
    features = list(model.columns) or [name for name in map(str, table) if name != known[0]]
    if missing := [name for name in features if name not in table]:
        raise InputError(f"reference: lacks {', '.join(missing)}, which the model needs")
    return table[features].assign(actual=table[known[0]])


def _described(model: LoadedModel, learnt: pd.DataFrame | None) -> LoadedModel:
    """Return the model with the columns that only its reference rows tell, and which of them hold categories."""
    if learnt is None:
        if not model.columns:
            raise InputError(f"model {model.place}: does not say its columns; give reference rows, or `columns`")
        return model
    columns = model.columns or tuple(name for name in map(str, learnt) if name != "actual")
    texts = tuple(name for name in columns if not pd.api.types.is_numeric_dtype(learnt[name]))
    lacking = tuple(name for name in columns if learnt[name].isna().any())
    return replace(
        model, columns=columns, categorical=model.categorical or texts, optional=model.optional or lacking
    )  # fmt: skip


def _golden(table: pd.DataFrame, model: Model) -> pd.DataFrame:
    prefixed = [f"{FEATURE}{name}" if f"{FEATURE}{name}" in table else name for name in model.columns]
    answers = model.task.columns(table.drop(columns=prefixed, errors="ignore"))
    if missing := [name for name in (*prefixed, *model.task.required) if name not in table]:
        raise InputError(f"golden: lacks {', '.join(missing)}")
    rows = table[prefixed].set_axis([f"{FEATURE}{name}" for name in model.columns], axis=1)
    return pd.concat([rows, table[answers]], axis=1)
