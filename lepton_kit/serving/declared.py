"""What a service of `lepton serve` says of itself, so that all else cares for it as for anybody's service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lepton_kit.files import write_atomically
from lepton_kit.models.flavors import Model
from lepton_kit.models.forecasters import Forecaster
from lepton_kit.models.tasks import PROBA
from lepton_kit.serving.config import ServiceConfig
from lepton_kit.serving.requestlog import declared_rows
from lepton_kit.telemetry.declaration import Columns, Declaration

FILE = "declaration.json"


def declare(service: ServiceConfig, address: str, model: Model) -> None:
    """Write `declaration.json` into a service's folder: where its evidence is, and what can be done to it."""
    project = service.folder.parents[1]
    act = ["lepton", "act", service.name]
    declaration = Declaration.model_validate(
        {
            "task": model.task.name,
            "time_series": model.task.name == "interval_forecast",
            "address": address,
            "signals": "lepton",
            "requests": declared_rows(service.folder / "requests", project),
            "logs": _shown(service.folder / "service*.jsonl", project),
            "deployments": _shown(service.folder / "deployments.jsonl", project),
            "columns": _columns(model),
            "model": service.model,
            "registry": _shown(service.registry, project),
            "actions": {
                "roll_back": ["lepton", "rollback", service.name],
                "deploy": [*act, "deploy", "--version", "{version}"],
                "scale": [*act, "scale", "--workers", "{workers}"],
                "restart": [*act, "restart"],
            },
        }
    )
    text = declaration.model_dump_json(indent=1, exclude_defaults=True)
    write_atomically(service.folder / FILE, text + "\n")


def _shown(path: Path, project: Path) -> str:
    """Return a path for a declaration: relative to the project where it is inside."""
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else str(path)


def _columns(model: Model) -> Columns:
    """Return the roles of the columns of the request log: `features` and `answers` are objects in it."""
    answers: dict[str, dict[str, Any]] = {
        "interval_forecast": {
            **{name: f"answers.{name}" for name in ("lower", "upper", "mean", "std")},
            **({"prediction_probas": "answers.prob_up"} if isinstance(model, Forecaster) else {}),
        },
        "regression": {"prediction": "answers.prediction"},
        "ranking": {"prediction": "answers.prediction"},
        "text": {"prediction": "answers.*"},
        "classification_binary": {"prediction_probas": "answers.proba"},
        "classification_multiclass": {
            "prediction_labels": "answers.label",
            "prediction_probas": [f"answers.{PROBA}{one}" for one in getattr(model, "classes", ())],
        },
    }
    said = {
        "timestamp": "time_ms", "id": "request_id", "version": "version", "status": "status",
        "latency_ms": "latency_ms", "features": "features.*", "target": "actual", "rating": "rating",
        "feedback": "comment", "categorical": [f"features.{name}" for name in model.categorical],
    }  # fmt: skip
    return Columns.model_validate({**said, **answers[model.task.name]})
