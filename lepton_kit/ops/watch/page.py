"""The pages of `lepton watch`: what `status.py` says, in the templates of this folder; every value is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from shlex import quote as quote_word
from typing import Any
from urllib.parse import quote

from lepton_kit.ops.watch.seen_before import alike_words, seen_words
from lepton_kit.reports.values import sure

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors "
)
REFRESH_S = 15
WORDS = {"timed_out": "timed out", "kernel_died": "kernel died", "expectation_failed": "expectation failed"}
GOOD, BUSY = {"succeeded", "ready", "resolved", "recovered"}, {"running", "queued", "waiting"}
BAD = {"failed", "refused", "down", "firing", "worse", "not recovered", *WORDS}
LOW_BUDGET = 0.25


def status_page(status: Mapping[str, Any]) -> str:
    """Return the page of the whole."""
    about = {"status": status, "headline": _headline(status), "tone": _tone(status)}
    return rendered("status", f"{status['project']}: status", refresh=REFRESH_S, **about)


@dataclass(frozen=True)
class Reader:
    """Who reads a page: the `user` that a proxy named; whether to decide takes the token of the webhook.

    Who came by a signed `link` decides on the repair `link_job` with it.
    """

    user: str = ""
    needs_token: bool = False
    link: str = ""
    link_job: int | None = None


def incident_page(
    incident: Mapping[str, Any],
    reader: Reader = Reader(),
    pictures: Mapping[int, tuple[str, str]] | None = None,
    **place: Any,
) -> str:
    """Return the page of one incident, where a person acknowledges it, and approves or rejects its repairs.

    `pictures` has for a repair's job the address that holds its figure, and what that shows. The page does not load
    itself again, as the status page does: what is being typed would be lost. `place` is where another server
    than `lepton watch` shows it.
    """
    again = incident.get("diagnose", "")
    if again == (incident.get("next_action") or {}).get("command"):
        again = ""  # it stands on top
    seen_to = incident["acknowledged"]
    facts = {
        "Service": incident["service"], "Owner": incident["owner"],
        "Acknowledged": f"by {incident['acknowledged_by']}, {_second(seen_to)} UTC" if seen_to else "",
        "Silenced": incident["silenced"], "Severity": incident["severity"],
        "Began (UTC)": _second(onset) if (onset := incident.get("onset")) else "",
        "Path": incident.get("path", ""), "Noticed (UTC)": _second(incident["starts_at"]),
        "Over (UTC)": _second(incident["ends_at"]) if incident["ends_at"] else "", "Triggered by": incident["origin"],
        "Received": f"{incident['seen']} times", "Recording": incident["recording"] or "", "Note": incident["note"],
    }  # fmt: skip
    about = {"incident": incident, "facts": facts, "again": again, "pictures": pictures or {}}
    return rendered("incident", incident["id"], reader=reader, **about, **place)


def login_page(target: str, wrong: str = "") -> str:
    """Return the page that asks for the token, and leads on to `target`."""
    return rendered("login", "login", target=target, wrong=wrong)


def runbook_page(alert: str, runbook: str | None, incidents: Iterable[Mapping[str, Any]]) -> str:
    """Return the page that an alert's `runbook_url` leads to."""
    known = list(incidents)
    firing, over = ([one for one in known if (one["status"] == "firing") is wanted] for wanted in (True, False))
    return rendered("runbook", f"runbook of {alert}", alert=alert, runbook=runbook, firing=firing, over=over)


def missing_page(what: str) -> str:
    """Return the page that says that something is not there."""
    return rendered("message", "not found", heading="Not found", words=what)


def recorded_page(incident: str) -> str:
    """Return the page that says that a decision by a link was taken."""
    return rendered("message", "recorded", heading="Recorded", words=f"Your decision on {incident} is recorded.")


def refused_page(why: str) -> str:
    """Return the page that says why a decision was not taken."""
    return rendered("message", "not done", heading="Nothing was changed", words=why, is_wrong=True)


def rendered(name: str, title: str, **about: Any) -> str:
    """Return a page by its template; `root` is the address that it lies under, where that is not the server's own."""
    return str(_templates().get_template(f"{name}.html.j2").render(title=title, **about))


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader  # the import costs what only a page should pay

    folders = [Path(__file__).with_name("templates"), Path(__file__).parents[1] / "lab" / "templates"]
    made = Environment(loader=FileSystemLoader(folders), autoescape=True)
    made.globals |= {"root": "", "home": ("/", "Status"), "decides": True, "base": "page.html.j2"}
    made.filters |= {
        "alike_words": alike_words, "seen_words": seen_words,
        "budget_tone": _budget_tone, "budget_words": _budget_words, "incident_words": _incident_words,
        "job_words": _job_words, "moment": _moment, "quoted": quote, "second": _second, "shell_quoted": quote_word,
        "status_words": lambda word: WORDS.get(word, word), "tone": _badge_tone,
    }  # fmt: skip
    return made


def _badge_tone(word: str) -> str:
    return "good" if word in GOOD else "bad" if word in BAD else "busy" if word in BUSY else "plain"


def _headline(status: Mapping[str, Any]) -> str:
    down = [one["name"] for one in status["services"] if not one["is_ready"]]
    firing = status["open"]
    said = [f"{firing} open incident{'s' * (firing > 1)}"] if firing else []
    said += [f"{' and '.join(down)} not ready"] if down else []
    asked = len(status["approvals"])
    said += [f"{asked} repair{'s' * (asked > 1)} waiting for your decision"] if asked else []
    said += ["see the problems below"] if status["problems"] and not said else []
    missing = len(status.get("not_measured", []))
    gaps = f"; {missing} objective{'s are' if missing > 1 else ' is'} not measured" if missing else ""
    return "; ".join(said) or f"All is well{gaps}."


def _tone(status: Mapping[str, Any]) -> str:
    is_well = not status["open"] and not status["approvals"] and all(one["is_ready"] for one in status["services"])
    return "good" if is_well and not status["problems"] else "bad"


def _budget_tone(left: float) -> str:
    return "bad" if left <= 0 else "low" if left < LOW_BUDGET else "good"


def _budget_words(left: float) -> str:
    return f"{left:.0%} left" if left >= 0 else "spent" if left > -1 else f"spent {1 - left:.0f} times over"


def _incident_words(incident: Mapping[str, Any]) -> str:
    began = _second(incident.get("onset") or incident["starts_at"])
    since = f"since {began}"
    if incident["status"] != "firing":
        since = f"{began} to {_second(incident['ends_at']) if incident['ends_at'] else '?'}"
    return " · ".join(filter(None, [incident["service"], incident["severity"], f"{since} UTC"]))


def _job_words(job: Mapping[str, Any]) -> str:
    """Return what a job is, and what its run found: the cause of a diagnosis, the action and verdict of a repair."""
    what = {
        "alert": "runbook", "recovery": "recovery check", "schedule": f"schedule {job['name']}",
        "remedy": f"repair of {job['name']}", "postmortem": "postmortem",
    }[job["kind"]]  # fmt: skip
    results, also = job["results"], job["results"].get("also")
    causes = [results.get("cause"), *(also if isinstance(also, list) else [also])]
    said = " and ".join(str(cause) for cause in causes if cause)
    probability = results.get("probability")
    if said and isinstance(probability, int | float):
        said += f" ({sure(probability)})"
    found = [f"cause: {said}" if said else "", *(str(results.get(name) or "") for name in ("action", "verdict"))]
    return " · ".join(filter(None, [what, *found, "rolled back" if results.get("rolled_back") else ""]))


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M}"


def _second(iso: str) -> str:
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M:%S}"
