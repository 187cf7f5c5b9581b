"""What a service is given when it starts, handed to its workers through the environment."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lepton_kit.errors import InputError
from lepton_kit.serving.control import MOST_QUEUED

VARIABLE = "LEPTON_SERVICE"
TOKEN = "LEPTON_ADMIN_TOKEN"
"""The variable that holds the token of the `/admin` endpoints; without it they are refused."""


class ServiceConfig(BaseModel):
    """The settings of one service; sizes in bytes, times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model: str
    registry: Path
    folder: Path
    queue_limit: int = Field(default=64, ge=1, le=MOST_QUEUED)
    body_limit: int = Field(default=2 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    fresh_seconds: float = Field(default=5 * 86400, gt=0)
    log_bytes: int = Field(default=2 * 1024**3, ge=1024 * 1024)
    log_days: float = Field(default=90, gt=0)

    @property
    def metrics_folder(self) -> Path:
        """Return where workers keep their numbers."""
        return self.folder / "metrics"


def read_config(folder: Path) -> ServiceConfig | None:
    """Return the settings that a service was last started with, or None where it never was."""
    path = folder / "service.json"
    if not path.is_file():
        return None
    try:
        return ServiceConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not the settings of a service; start the service again") from error


def give_to_workers(config: ServiceConfig) -> None:
    """Put the settings where the workers that are started from here find them."""
    os.environ[VARIABLE] = config.model_dump_json()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(config.metrics_folder)


def config_of_worker() -> ServiceConfig:
    """Return the settings that this worker's supervisor gave."""
    return ServiceConfig.model_validate_json(os.environ[VARIABLE])
