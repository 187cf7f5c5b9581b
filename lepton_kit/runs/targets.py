"""Which trackers a project's runs are written into, and where these are: `[track]` of lepton.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from lepton_kit.errors import InputError
from lepton_kit.runs.project import SETTINGS, setting
from lepton_kit.secrets import is_reference, resolve_secret


class Target(BaseModel):
    """Where a tracker writes: `to` is its address or folder, or where that is kept (`env:NAME`, `file:PATH`).

    `file` is the Python file that holds a tracker of one's own. Only `to` is needed, and may stand alone.
    """

    model_config = ConfigDict(extra="forbid")
    to: str
    file: str | None = None

    def address(self, project: Path) -> str:
        """Return the address, or the absolute folder; raises InputError where its secret cannot be read."""
        is_kept = is_reference(self.to) and "://" not in self.to  # file://… is an address itself
        where = resolve_secret(self.to, project).strip() if is_kept else self.to
        if not where:
            raise InputError(f"tracker: to = {self.to!r}: must be given an address or a folder")
        return where if "://" in where else str(project / where)


Targets = dict[
    str, Annotated[Target, BeforeValidator(lambda given: {"to": given} if isinstance(given, str) else given)]
]
_CHECKED: TypeAdapter[dict[str, Target]] = TypeAdapter(Targets)


def set_targets(project: Path) -> dict[str, Target]:
    """Return the trackers that `[track]` names, with where they write.

    Raises InputError when the section is not what it must be.
    """
    given: Any = setting(project, "track")
    try:
        return _CHECKED.validate_python({} if given is None else given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("track", *(part for part in first["loc"]))))
        raise InputError(f"{project / SETTINGS}: setting {where!r}: {first['msg']}") from error
