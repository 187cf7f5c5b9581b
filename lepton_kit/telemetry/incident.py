"""What `incident.json` of a recording says: alerts, deployments, versions, objectives, and where the rest is from.

All text is untrusted: it comes from the service's log. Control characters are made visible on reading;
code that displays text still escapes it.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from lepton_kit.telemetry.declaration import FORECASTER, Declaration
from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.slo import Objective

FORMAT: Literal["lepton-recording/2"] = "lepton-recording/2"
FORMER = "lepton-recording/1"
"""Recordings of this format are of interval forecasters of a time series, and say nothing of their service."""

LONGEST_TEXT = 500


def printable(text: str, longest: int = LONGEST_TEXT) -> str:
    r"""Make control, formatting and line-breaking characters visible, and cut the text to a length.

    >>> printable("ok\x1b[31m \u202egnp.exe")
    'ok\\x1b[31m \\u202egnp.exe'
    """
    shown = "".join(_visible(character) for character in text[: longest + 1])
    return shown if len(text) <= longest else shown[:longest] + "…"


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return character.encode("unicode_escape").decode() if hidden else character


Text = Annotated[str, AfterValidator(printable)]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]  # it names a folder


class Part(BaseModel):
    """What others write may hold more than is known here."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Window(Part):
    """From when to when the evidence was taken (UTC)."""

    start: AwareDatetime
    end: AwareDatetime


class Alert(Part):
    """An alert as Alertmanager tells it."""

    name: Text
    starts_at: AwareDatetime
    labels: dict[Text, Text] = {}
    annotations: dict[Text, Text] = {}


class Deployment(Part):
    """A version that went into service."""

    time: AwareDatetime
    version: Version
    note: Text = ""


class Versions(Part):
    """The version in service, and the last one known to be good, if any.

    `stands_in_for` is the version that the one in service was compressed from, where it answers in its place.
    """

    current: Version
    last_good: Version | None = None
    stands_in_for: Version | None = None


class Provenance(Part):
    """How each part of the recording came to be."""

    measured: tuple[Text, ...] = ()
    derived: tuple[Text, ...] = ()
    constructed: tuple[Text, ...] = ()


class Promise(Part):
    """An objective of the service, as its file said it then; `time_scale` shortened its windows."""

    name: Text
    title: Text
    service: Text
    description: Text = ""
    target: float = Field(gt=0, lt=1)
    window_s: int = Field(gt=0)
    events: Literal["good", "bad"]
    selector: str
    total: str
    minimum: int = 1
    counts: Literal["requests", "hits"] = "requests"
    time_scale: float = Field(default=1, gt=0)

    @classmethod
    def of(cls, one: Objective, time_scale: float = 1.0) -> Promise:
        """Return an objective as it can be kept."""
        texts = {"selector": str(one.selector), "total": str(one.total)}
        return cls(**{**vars(one), **texts, "window_s": one.window, "time_scale": time_scale})

    def objective(self) -> Objective:
        """Return it ready to be evaluated."""
        known = self.model_dump(exclude={"window_s", "time_scale", "selector", "total"})
        selector, total = map(parse_selector, (self.selector, self.total))
        return Objective(**known, window=self.window_s, selector=selector, total=total)


class Incident(Part):
    """What `incident.json` says."""

    format: Literal["lepton-recording/1", "lepton-recording/2"]
    id: Text
    service: Text
    declaration: Declaration = Declaration()
    window: Window
    versions: Versions
    alerts: tuple[Alert, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    promises: tuple[Promise, ...] = ()
    checksums: dict[Version, bool] = {}
    problems: tuple[Text, ...] = ()
    provenance: Provenance = Provenance()

    @model_validator(mode="after")
    def _of_the_former_format(self) -> Incident:
        if self.format == FORMER:
            told = {version: said for version in self._versions() if (said := self._sum_of(version)) is not None}
            self.__dict__.update(declaration=FORECASTER, checksums={**told, **self.checksums})
        return self

    def _versions(self) -> list[str]:
        return [one for one in (self.versions.current, self.versions.last_good) if one]

    def _sum_of(self, version: str) -> bool | None:
        """Return what the notes of the former format say of a version's checksums; it had no other place for that."""
        notes = (*self.provenance.derived, *self.provenance.measured)
        if any(note.startswith(f"models/{version}: its checksums do not hold") for note in notes):
            return False
        hold = any(note.startswith("models: ") and note.endswith("; their checksums hold") for note in notes)
        return True if hold else None
