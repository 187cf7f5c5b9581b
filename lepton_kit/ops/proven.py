"""What drills have proven: for each alert, runbook and service the newest drill that ended recovered, and its age.

Only a drill in which the alert fired, one cause was named rightly, and its remedy alone restored the objective proves a
runbook. Light to import: the pages of `lepton watch` show it.
"""

from __future__ import annotations

import ast
import hashlib
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

from lepton_kit.errors import InputError
from lepton_kit.files import sha256_of
from lepton_kit.ops.drill_results import GOOD_ENDS, Basis, Drill, Drilled, Results, Stage, read_results
from lepton_kit.project.declarations import find_declaration
from lepton_kit.project.settings import read_settings
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.slo import alert_name, read_objectives

FOLDER = "drills"
CODE = (
    "data/", "models/", "telemetry/", "diagnosis/", "stats.py", "serving/control.py", "ops/actions.py",
    "ops/declared.py", "ops/operator.py", "ops/repairs.py", "ops/service_operator.py", "ops/watch/evidence.py",
)  # fmt: skip
"""What captures evidence, diagnoses and repairs, in this package: a change of any other module is none for a proof."""

UNSEEN = {"owner", "cost_per_minute", "currency", "drill"}
"""Entries of a declaration that change no diagnosis and no repair, at most its words."""

Why = Literal[
    "age", "runbook", "remedy", "declaration", "objectives", "model", "diagnosis", "code", "build", "failed since"
]  # fmt: skip
WHY: dict[Why, str] = {
    "age": "too old",
    "runbook": "the runbook has changed since",
    "remedy": "the runbook's parameters in lepton.toml have changed since",
    "declaration": "the service's declaration has changed since",
    "objectives": "the service's objectives have changed since",
    "model": "another version of the service's model is in service",
    "diagnosis": "the runbook of the diagnosis, or its parameters, have changed since",
    "code": "the kit's evidence, diagnosis or remedies have changed since",
    "build": "an earlier build of the kit made it, which did not note all that it rested on",
    "failed since": "a drill of it ended badly, and none as real of that fault has recovered since",
}
"""Why a proof is stale, in words."""

RESTS_ON = tuple(one for one in WHY if one not in ("age", "build", "failed since"))
"""Names of the fingerprints of a drill."""


@dataclass(frozen=True)
class Proof:
    """What drills say of a runbook that follows on an alert of a service.

    `proven` is when the newest drill that ended recovered was made (UTC), None where there is none; `drill`, `basis`
    and `kit` (the version of this package) are that drill's, `file` holds its results. `stale` says why it no longer
    counts, and is empty where it does; `failed` is the drill that ended badly. `stage_to_repeat` is where that one was
    made, or else the drill.
    """

    alert: str
    runbook: str
    service: str
    proven: datetime | None = None
    drill: Drill | None = None
    basis: Basis | None = None
    kit: str = ""
    file: str = ""
    age_days: float | None = None
    stale: tuple[Why, ...] = ()
    failed: Drill | None = None
    stage_to_repeat: Stage = "simulated"

    def __str__(self) -> str:
        """Return it as a person at the runbook reads it.

        >>> str(Proof("GoogErrorsBudgetBurn", "runbooks/repair-data.ipynb", "goog"))
        'never proven in a drill'
        """
        if self.proven is None or self.drill is None:
            return "never proven in a drill"
        how = HOW[self.basis.stage] if self.basis else "a drill"
        model = f", model {self.basis.model}" if self.basis and self.basis.model else ""
        why = f"; stale: {', '.join(WHY[one] for one in self.stale)}" if self.stale else ""
        when = f"{self.proven.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        return f"last proven on {when} in {how} of {self.drill.fault} (kit {self.kit}{model}){why}"


HOW: dict[Stage, str] = {
    "simulated": "a simulated drill (its plan, not the notebook)",
    "served": "a live drill",
    "declared": "a live drill",
}


# --- what a drill rests on --------------------------------------------------------------------------------------------


def basis_of(project: Path, service: str, stage: Stage, runbook: str = "", model: str = "") -> Basis:
    """Return what a drill of a service rests on now; without a runbook, all but that and its remedy's parameters.

    A simulated drill runs no notebook, and none of the project's models. Raises InputError when the service is not
    declared, or its objectives, its registry or a notebook cannot be read.
    """
    declaration = find_declaration(service, project)
    objectives = project / declaration.objectives
    held = {
        "declaration": _sha256(declaration.model_dump_json(exclude=UNSEEN, exclude_defaults=True)),
        "objectives": sha256_of(objectives) if objectives.exists() else "",
        "code": _code_sha256(),
    }
    if stage != "simulated":
        held |= {"model": _registered(declaration, project), "diagnosis": _diagnoses(objectives, project, stage)}
    basis = Basis(stage, "", model, held)
    return with_runbook(basis, runbook, project) if runbook else basis


def with_runbook(basis: Basis, runbook: str, project: Path) -> Basis:
    """Return a basis with the runbook of its remedy, and what lepton.toml gives that, as they stand in a project.

    A simulated drill reads nothing of the latter. Raises InputError when there is no such notebook.
    """
    remedies = read_settings(project).remedies.by_cause()
    given = {cause: one.parameters for cause, one in remedies.items() if one.runbook == runbook}
    more = {"runbook": _notebook_sha256(runbook, project)}
    if basis.stage != "simulated":
        more["remedy"] = _sha256(repr(given))
    return replace(basis, runbook=runbook, sha256={**basis.sha256, **more})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _notebook_sha256(name: str, project: Path) -> str:
    from lepton_kit.runs.notebooks import locate_notebook, read_notebook, source_sha256  # nbformat takes time to import

    own = project / name  # before one of that name where the command was given
    return source_sha256(read_notebook(own if own.is_file() else locate_notebook(name, project)))


def _diagnoses(objectives: Path, project: Path, stage: Stage) -> str:
    """Return the hash of the runbooks that the alerts of a folder of objectives start in a drill, and their parameters.

    A drill of a declared service leaves the project's own rules out (`declared_settings` of the live drills).
    """
    from lepton_kit.ops.watch.policy import USUAL

    alerts = {} if stage == "declared" else read_settings(project).alerts
    folder = read_objectives(objectives) if objectives.exists() else []
    rules = [alerts.get(alert_name(one), USUAL) for one in folder]
    return _sha256(repr(sorted({f"{_notebook_sha256(one.runbook, project)} {one.parameters}" for one in rules})))


def _registered(declaration: Declaration, project: Path) -> str:
    """Return the version that a service's registry has in service; empty of a model that is elsewhere."""
    from lepton_kit.models.registry import Registry  # takes time to import

    name = declaration.registered
    return (Registry(project / declaration.registry).current(name) or "") if name else ""


@lru_cache(maxsize=1)
def _code_sha256() -> str:
    kit = Path(__file__).parents[1]
    files = {file.relative_to(kit).as_posix(): file for kind in ("*.py", "*.toml") for file in sorted(kit.rglob(kind))}
    return _sha256("".join(name + _code_of(file) for name, file in files.items() if name.startswith(CODE)))


def _code_of(file: Path) -> str:
    """Return what a module or TOML file says to a machine: no comments, layout and docstrings, in any Python."""
    if file.suffix == ".toml":
        return repr(tomllib.loads(file.read_text(encoding="utf-8")))
    return repr(_syntax(ast.parse(file.read_bytes())))


def _syntax(node: object) -> object:
    if isinstance(node, ast.AST):
        told = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        return type(node).__name__, *((name, _syntax(value)) for name, value in told)
    if isinstance(node, list):
        return [_syntax(one) for one in node if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    return repr(node)


# --- what drills prove ------------------------------------------------------------------------------------------------


def proofs(project: Path) -> list[Proof]:
    """Return what drills say of every alert, runbook and service: of the settings, and of the results in `drills/`.

    Raises InputError when the settings or the objectives of a service cannot be read.
    """
    asked = {(one.alert, one.runbook, one.service): one for one in _declared(project)}
    found = asked | {(one.alert, one.runbook, one.service): one for one in drilled_proofs(_results(project))}
    return [_aged(one, project) for _, one in sorted(found.items())]


def proof_of(alert: str, runbook: str, service: str, project: Path) -> Proof:
    """Return what drills say of one alert, runbook and service; InputError where results cannot be read."""
    wanted = (alert, runbook, service)
    known = (one for one in drilled_proofs(_results(project)) if (one.alert, one.runbook, one.service) == wanted)
    return _aged(next(known, Proof(*wanted)), project)


def proof_words(alert: str, runbook: str, service: str, project: Path) -> str:
    """Return what drills say of a runbook, for its reader; where results cannot be read, that it is not known.

    >>> proof_words("GoogErrorsBudgetBurn", "runbooks/repair-data.ipynb", "goog", Path("no/such/project"))
    'never proven in a drill'
    """
    try:
        return str(proof_of(alert, runbook, service, project))
    except InputError as error:
        return f"not known when last proven: {error}"


def drilled_proofs(results: Iterable[tuple[str, Results]]) -> list[Proof]:
    """Return what results of drills, by their file, say of the runbooks that they tried; not whether that is stale.

    Only "failed since" is said here. A drill that ended badly counts against the runbook that it tried, and against
    each that its fault has proven on that alert, until as real a drill of the same fault and alert recovers.
    """
    found: dict[_Key, Proof] = {}
    faults: dict[_Key, set[str]] = defaultdict(set)
    failures: dict[tuple[str, str, str], Drilled] = {}
    made = [(file, held, one) for file, held in sorted(results, key=lambda item: item[1].made) for one in held.drills]
    for file, held, one in made:
        same = (one.alert, one.service, one.fault)
        before = failures.get(same)
        if one.verdict not in GOOD_ENDS and (before is None or _is_live(one) >= _is_live(before)):
            failures[same] = one
        elif one.verdict == "recovered" and before is not None and _is_live(one) >= _is_live(before):
            del failures[same]
        if not _tries(one):
            continue
        key = _key(one)
        found.setdefault(key, Proof(*key))
        if one.verdict == "recovered":
            assert one.basis is not None
            faults[key].add(one.fault)
            stage = one.basis.stage
            found[key] = Proof(*key, held.made, _drill(one), one.basis, held.kit, file, stage_to_repeat=stage)
    return [_unless_failed(one, faults[key], failures.values()) for key, one in found.items()]


_Key = tuple[str, str, str]


def _unless_failed(proof: Proof, faults: set[str], failures: Iterable[Drilled]) -> Proof:
    """Return a proof with the most real drill that ended badly and counts against it."""
    key = (proof.alert, proof.runbook, proof.service)
    against = [
        one
        for one in failures
        if ((one.alert, one.service) == (proof.alert, proof.service) and one.fault in faults)
        or (_tries(one) and _key(one) == key)
    ]
    if proof.proven is None or not against:
        return proof
    worst = max(against, key=_is_live)
    stage = worst.basis.stage if worst.basis else proof.stage_to_repeat
    return replace(proof, stale=("failed since",), failed=_drill(worst), stage_to_repeat=stage)


def _is_live(one: Drilled) -> bool:
    """Whether a drill had real processes: it says more than one under a virtual clock."""
    return one.kind == "live"


def _drill(one: Drilled) -> Drill:
    return Drill(one.fault, one.severity, one.seed)


def _tries(one: Drilled) -> bool:
    """Whether a drill tried a runbook alone, on an alert: the cause was right, whether it helped or not."""
    return bool(one.alert and one.service and one.basis and one.basis.runbook) and not one.also and one.verdict in TRIED


TRIED = ("recovered", "not recovered")


def _key(one: Drilled) -> _Key:
    assert one.basis is not None
    return one.alert, one.basis.runbook, one.service


def _declared(project: Path) -> Iterator[Proof]:
    settings = read_settings(project)
    for service, declaration in settings.services.items():
        folder = project / declaration.objectives
        for objective in read_objectives(folder) if folder.exists() else []:
            for remedy in settings.remedies.by_cause().values():
                yield Proof(alert_name(objective), remedy.runbook, service)


def _results(project: Path) -> list[tuple[str, Results]]:
    files = sorted((project / FOLDER).glob("*-*-*.json"))
    return [(path.relative_to(project).as_posix(), _read(path, path.stat().st_mtime_ns)) for path in files]


@lru_cache(maxsize=500)
def _read(path: Path, _as_of: int) -> Results:
    return read_results(path)


def _aged(proof: Proof, project: Path) -> Proof:
    """Return a proof with its age, and with what has changed since."""
    if proof.proven is None:
        return proof
    age = (datetime.now(UTC) - proof.proven).total_seconds() / 86400
    why: list[Why] = ["age"] if age > read_settings(project).drills.stale_days else []
    if proof.basis is not None:
        try:
            current = basis_of(project, proof.service, proof.basis.stage, proof.basis.runbook).sha256
        except InputError:  # the service or its runbook is gone: nothing of it stands as it was
            current = dict.fromkeys(proof.basis.sha256, "gone") | {"code": _code_sha256()}
        held = proof.basis.sha256
        why += [name for name in RESTS_ON if name in held and name in current and held[name] != current[name]]
        why += ["build"] if current.keys() - held.keys() else []
    return replace(proof, age_days=round(age, 2), stale=(*proof.stale, *why))
