"""What Alertmanager posts (webhook, version 4), and who may post it."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from lepton_kit.errors import InputError
from lepton_kit.project.settings import Watch
from lepton_kit.secrets import resolve_secret

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
SIGNATURE = "x-lepton-signature"
"""The header of a signature: `sha256=` and the HMAC-SHA256 of the body, hexadecimal."""


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("must lie within the years 1 to 9999 in UTC") from error


Moment = Annotated[AwareDatetime, AfterValidator(_utc)]


Text = Annotated[str, AfterValidator(lambda text: text.replace("\0", "\N{REPLACEMENT CHARACTER}"))]
"""Text without the one character that PostgreSQL cannot keep."""


class Alert(BaseModel):
    """One alert, as in the `alerts` list of a webhook; times in UTC. Fields that are not named here are left out."""

    model_config = ConfigDict(frozen=True)

    status: Literal["firing", "resolved"]
    labels: dict[Text, Text]
    annotations: dict[Text, Text] = {}
    starts_at: Moment = Field(alias="startsAt")
    ends_at: Moment | None = Field(default=None, alias="endsAt")  # the year 1 while an alert fires
    generator_url: Text = Field(default="", alias="generatorURL")
    fingerprint: str = Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")

    @property
    def name(self) -> str:
        """Return the label `alertname`; empty where there is none."""
        return self.labels.get("alertname", "")

    @property
    def subject(self) -> str:
        """Return what the alert is about, whatever its severity: its other labels."""
        return json.dumps({name: value for name, value in self.labels.items() if name != "severity"}, sort_keys=True)

    @property
    def since(self) -> str:
        """Return the start as text, which with the fingerprint tells this alert from all others."""
        return self.starts_at.isoformat(timespec="microseconds")

    @property
    def incident(self) -> str:
        """Return the id of the alert's incident: when, what, and some digits that make it the only one.

        Examples
        --------
        >>> Alert(status="firing", labels={"alertname": "GoogLatencyBudgetBurn"}, startsAt="2026-11-25T03:00:00Z",
        ...       fingerprint="a1").incident
        '20261125T030000Z-goog-latency-budget-burn-cf122f45'
        """
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", self.name)
        words = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:48].strip("-")
        digits = hashlib.sha256(f"{self.fingerprint} {self.since}".encode()).hexdigest()[:8]
        return f"{self.starts_at:%Y%m%dT%H%M%SZ}-{words or 'alert'}-{digits}"

    def as_posted(self) -> dict[str, Any]:
        """Return the alert as JSON, with the names that Alertmanager gives."""
        return self.model_dump(mode="json", by_alias=True)


class Webhook(BaseModel):
    """What Alertmanager posts: several alerts at once; `truncated` counts those that it left out."""

    version: Literal["4"]
    alerts: list[Alert] = Field(max_length=10_000)
    group: str = Field(default="", alias="groupKey")
    truncated: int = Field(default=0, alias="truncatedAlerts", ge=0)


def field_reasons(error: ValidationError, most: int = 20) -> list[dict[str, str]]:
    """Return where a body is not as it must be, and why."""
    return [
        {"field": ".".join(map(str, found["loc"])) or "body", "message": found["msg"]}
        for found in error.errors(include_url=False, include_context=False, include_input=False)[:most]
    ]


@dataclass(frozen=True, repr=False)
class Gate:
    """Who may post: a bearer of the token, or who signs with the key; without either nobody, or anybody by `open`."""

    token: bytes | None = None
    key: bytes | None = None
    open: bool = False

    def refusal(self, headers: Mapping[str, str], body: bytes) -> tuple[int, str] | None:
        """Return the status and the reason with which a post is refused; None when it may come in.

        Names of headers are in small letters; the body is as it was sent.
        """
        if self.token is None and self.key is None:
            return None if self.open else (403, "refused: neither token nor hmac is set under [watch] in lepton.toml")
        kind, _, given = headers.get("authorization", "").partition(" ")
        is_bearer = self.token is not None and hmac.compare_digest(given.strip().encode(), self.token)
        signed = hmac.digest(self.key, body, "sha256").hex() if self.key is not None else ""
        is_signed = hmac.compare_digest(headers.get(SIGNATURE, "").encode(), f"sha256={signed}".encode())
        if (is_bearer and kind.lower() == "bearer") or (is_signed and self.key is not None):
            return None
        return 401, "refused: the token or the signature is missing or wrong"


def make_gate(settings: Watch, project: Path, host: str, insecure: bool) -> Gate:
    """Return the gate that the settings ask for.

    Raises InputError when a secret cannot be resolved, or `--insecure` is given for an address that others reach.
    """
    if insecure and host not in LOOPBACK:
        raise InputError(f"--insecure with --host {host}: is for loopback alone; set token or hmac under [watch]")
    token, key = (
        resolve_secret(reference, project).strip().encode() if reference is not None else None
        for reference in (settings.token, settings.hmac)
    )
    return Gate(token, key, open=insecure)
