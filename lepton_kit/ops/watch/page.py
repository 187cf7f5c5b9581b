"""The pages of `lepton watch`: HTML from data, every value escaped; no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from shlex import quote as quote_word
from typing import Any
from urllib.parse import quote

from lepton_kit.reports.values import sure

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
REFRESH_S = 15
WORDS = {"timed_out": "timed out", "kernel_died": "kernel died", "expectation_failed": "expectation failed"}
GOOD, BUSY = {"succeeded", "ready", "resolved", "recovered"}, {"running", "queued", "waiting"}
BAD = {"failed", "refused", "down", "firing", "worse", "not recovered"}
LOW_BUDGET = 0.25


def status_page(status: Mapping[str, Any]) -> str:
    """Return the page of the whole."""
    parts = [
        f'<header><h1>{text(status["project"])}</h1>',
        f'<p class="state {_tone(status)}">{text(_headline(status))}</p>{_scale(status)}</header>',
        _problems(status["problems"]),
        _section("Waits for your decision", [_asked(one) for one in status["approvals"]], "", "list"),
        _section("Services", [_service(one) for one in status["services"]], "None is named in lepton.toml.", "cards"),
        _not_measured(status.get("not_measured", [])),
        _section("Open incidents", [_incident(one) for one in status["open_incidents"]], "None."),
        _left_out(status["open"] - len(status["open_incidents"])),
        _section("Queued", [_job(one) for one in status["waiting"]], "", "list"),
        _section("Not started", [_job(one) for one in status["refused"]], "", "list"),
        _section("Runs", [_run(one) for one in status["runs"]], "None yet.", "list"),
        _section("Next schedules", [_schedule(one) for one in status["schedules"]], "None is set.", "list"),
        _section("Earlier incidents", [_incident(one) for one in status["recent_incidents"]], ""),
        f'<footer>As of {_time(status["time"])} UTC · {_queue_words(status["queue"])} · '
        '<a href="/status.json">the same as JSON</a></footer>',
    ]  # fmt: skip
    return document(f"{status['project']}: status", "".join(parts), REFRESH_S)


def incident_page(
    incident: Mapping[str, Any], needs_token: bool = False, pictures: Mapping[int, tuple[str, str]] | None = None
) -> str:
    """Return the page of one incident, where a person approves or rejects its repairs.

    `pictures` has for a repair's job the address that holds its figure, and what that shows. `needs_token` says whether
    that takes the token of the webhook. The page does not load itself again, as the status page does: what is being
    typed would be lost.
    """
    alert, again = incident["alert"], incident.get("diagnose", "")
    if again == (incident.get("next_action") or {}).get("command"):
        again = ""  # it stands on top
    facts = {
        "Service": incident["service"], "Severity": incident["severity"],
        "Began (UTC)": _time(onset) if (onset := incident.get("onset")) else "",
        "Noticed (UTC)": _time(incident["starts_at"]),
        "Over (UTC)": _time(incident["ends_at"]) if incident["ends_at"] else "", "Came by": incident["origin"],
        "Received": f"{incident['seen']} times", "Recording": incident["recording"] or "", "Note": incident["note"],
    }  # fmt: skip
    body = (
        f'<header><p class="back"><a href="/">Status</a></p><h1>{text(incident["name"] or "alert")} '
        f"{badge(incident['status'])}</h1><p>{text(incident['summary'])}</p></header>"
        + next_html(incident.get("next_action"))
        + _facts(facts)
        + _section("Repairs", [_remedy(one, needs_token, pictures or {}) for one in incident["remedies"]], "")
        + _section("Runs", [_job(one) for one in incident["runs"]], "None was started.", "list")
        + (f"<section><h2>Diagnose it again</h2>{_command(again)}</section>" if again else "")
        + f"<section><h2>Labels</h2>{_facts(alert['labels'])}</section>"
        + f"<section><h2>Annotations</h2>{_facts(alert['annotations'])}</section>"
    )
    return document(incident["id"], body)


def runbook_page(alert: str, runbook: str | None, incidents: Iterable[Mapping[str, Any]]) -> str:
    """Return the page that an alert's `runbook_url` leads to."""
    words = (
        f"<p>This alert starts <code>{text(runbook)}</code>.</p>"
        if runbook
        else "<p>No runbook is set for this alert: it is recorded only. "
        f"<code>[alerts.{text(alert)}]</code> in lepton.toml sets one.</p>"
    )
    known = list(incidents)
    firing, over = ([one for one in known if (one["status"] == "firing") is wanted] for wanted in (True, False))
    head = f'<header><p class="back"><a href="/">Status</a></p><h1>{text(alert)}</h1>{words}</header>'
    body = (
        _section("Open now", [_to_do(one) for one in firing], "This alert does not fire.", "list")
        + (f"<section><h2>Rehearse</h2>{_rehearsal(runbook)}</section>" if runbook and not firing else "")
        + _section("Earlier incidents", [_incident(one) for one in over], "None.")
    )
    return document(f"runbook of {alert}", head + body)


def _to_do(incident: Mapping[str, Any]) -> str:
    """Return what is to be done about an open incident: next, and to diagnose it once more."""
    link = f"/incidents/{quote(incident['id'])}"
    command = incident["diagnose"] if incident["diagnose"] != (incident["next_action"] or {}).get("command") else ""
    again = f"<p>Diagnose it again, from its own recording:</p>{_command(command)}" if command else ""
    same = f'<p class="quiet">The same as {text(incident["same_as"])}.</p>' if incident["same_as"] else ""
    return (
        f'<article class="card"><h3><a href="{text(link)}">{text(incident["id"])}</a></h3>{same}'
        f"{next_html(incident.get('next_action'))}{again}</article>"
    )


def next_html(action: Mapping[str, Any] | None) -> str:
    """Return what is to be done next, with its command, as HTML; nothing where nothing is."""
    if not action:
        return ""
    return f'<p class="next"><strong>Next:</strong> {text(action["what"])}</p>{_command(action["command"])}'


def _command(command: str) -> str:
    return f'<pre class="command">{text(command)}</pre>' if command else ""


def _rehearsal(runbook: str) -> str:
    return f"<p>On the example that comes with the runbook:</p>{_command(f'lepton run {quote_word(runbook)}')}"


def missing_page(what: str) -> str:
    """Return the page that says that something is not there."""
    return document("not found", f'<header><h1>Not found</h1><p>{text(what)}</p><p><a href="/">Status</a></p></header>')


def refused_page(why: str) -> str:
    """Return the page that says why a decision was not taken."""
    back = '<p><a href="/">Status</a></p>'
    return document("not done", f'<header><h1>Nothing was changed</h1><p class="wrong">{text(why)}</p>{back}</header>')


def document(title: str, body: str, refresh: int | None = None) -> str:
    """Return a whole page."""
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1">{again}<meta name="color-scheme" content="light dark"><title>{text(title)}</title>'
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="/style.css"></head>'
        f"<body><main>{body}</main></body></html>"
    )


def text(value: Any) -> str:
    """Return a value as HTML that shows it and means nothing else.

    >>> text("<b onclick='x'>")
    '&lt;b onclick=&#x27;x&#x27;&gt;'
    """
    return escape("" if value is None else str(value))


def badge(word: str) -> str:
    """Return a state as a small coloured mark; the word says it too, for who sees no colours."""
    tone = "good" if word in GOOD else "bad" if word in BAD or word in WORDS else "busy" if word in BUSY else "plain"
    return f'<span class="badge {tone}">{text(WORDS.get(word, word))}</span>'


def _headline(status: Mapping[str, Any]) -> str:
    down = [one["name"] for one in status["services"] if not one["is_ready"]]
    firing = status["open"]
    said = [f"{firing} open incident{'s' * (firing > 1)}"] if firing else []
    said += [f"{' and '.join(down)} not ready"] if down else []
    asked = len(status["approvals"])
    said += [f"{asked} repair{'s' * (asked > 1)} waiting for your decision"] if asked else []
    said += ["see the problems below"] if status["problems"] and not said else []
    missing = len(status.get("not_measured", []))
    as_far = (
        f", as far as it is measured: {missing} objective{'s are' if missing > 1 else ' is'} not" if missing else ""
    )
    return "; ".join(said) or f"All is well{as_far}."


def _scale(status: Mapping[str, Any]) -> str:
    scale = status.get("time_scale", 1)
    said = f"Demo time ×{scale:g}: all windows are so many times shorter."
    return f'<p class="quiet">{said}</p>' if scale != 1 else ""


def _tone(status: Mapping[str, Any]) -> str:
    is_well = not status["open"] and not status["approvals"] and all(one["is_ready"] for one in status["services"])
    return "good" if is_well and not status["problems"] else "bad"


def _queue_words(counts: Mapping[str, int]) -> str:
    return f"{counts['queued']} queued, {counts['running']} running"


def _problems(problems: Mapping[str, str]) -> str:
    items = "".join(f"<li><strong>{text(what)}</strong>: {text(why)}</li>" for what, why in problems.items())
    return f'<section class="problems"><h2>Problems of watching</h2><ul>{items}</ul></section>' if items else ""


def _not_measured(missing: Sequence[Mapping[str, Any]]) -> str:
    items = [
        f'<div class="row"><div><strong>{text(one["title"])}</strong> of {text(one["service"])}'
        f'<p class="quiet">{text(one["detail"])}</p></div><span class="badge">{text(one["reason"])}</span></div>'
        for one in missing
    ]
    return _section("Objectives that are not measured", items, "", "list")


def _section(heading: str, items: Sequence[str], empty: str, kind: str = "cards wide") -> str:
    if not items and not empty:
        return ""
    inner = f'<div class="{kind}">{"".join(items)}</div>' if items else f'<p class="quiet">{text(empty)}</p>'
    return f"<section><h2>{text(heading)}</h2>{inner}</section>"


def _left_out(count: int) -> str:
    return f'<p class="quiet">and {count} older ones; <code>lepton incidents</code> lists all.</p>' if count > 0 else ""


def _service(service: Mapping[str, Any]) -> str:
    state = "ready" if service["is_ready"] else "not ready" if service["is_up"] else "down"
    budgets = "".join(_budget(one) for one in service["budgets"])
    problem = f'<p class="wrong">{text(service["problem"])}</p>' if service["problem"] else ""
    listed = f'<dl class="budgets">{budgets}</dl>' if budgets else '<p class="quiet">No error budget measured yet.</p>'
    about = " · ".join(filter(None, [f"{service['model']} {service['version'] or ''}".strip(), service["address"]]))
    head = f'<h3>{text(service["name"])} {badge(state)}</h3><p class="quiet">{text(about)}</p>'
    return f'<article class="card">{head}{problem}{listed}</article>'


def _budget(budget: Mapping[str, Any]) -> str:
    left = budget["left"]
    if not budget.get("is_measured", True):
        return f'<div><dt>{text(budget["title"])}</dt><dd class="quiet">not measured</dd></div>'
    if left is None:
        return f'<div><dt>{text(budget["title"])}</dt><dd class="quiet">no data</dd></div>'
    tone = "bad" if left <= 0 else "low" if left < LOW_BUDGET else "good"
    width = round(100 * min(max(left, 0), 1), 1)
    words = f"{left:.0%} left" if left >= 0 else "spent" if left > -1 else f"spent {1 - left:.0f} times over"
    return (
        f'<div><dt>{text(budget["title"])}</dt><dd>{words}</dd><svg class="bar {tone}" viewBox="0 0 100 4" '
        f'preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="4"/>'
        f'<rect class="fill" width="{width}" height="4"/></svg></div>'
    )


def _incident(incident: Mapping[str, Any]) -> str:
    link = f"/incidents/{quote(incident['id'])}"
    began = _time(incident.get("onset") or incident["starts_at"])
    since = f"since {began}"
    if incident["status"] != "firing":
        since = f"{began} to {_time(incident['ends_at']) if incident['ends_at'] else '?'}"
    about = " · ".join(filter(None, [incident["service"], incident["severity"], f"{since} UTC"]))
    runs = "".join(_job(one) for one in incident["runs"])
    note = f'<p class="wrong">{text(incident["note"])}</p>' if incident["note"] else ""
    summary = f"<p>{text(incident['summary'])}</p>" if incident["summary"] else ""
    name = text(incident["name"] or "alert without a name")
    decided = "".join(_decided(one) for one in incident["remedies"])
    if flaps := incident.get("flaps"):
        times = "once" if flaps == 1 else f"{flaps} times"
        note += f'<p class="wrong">It flaps: the alert began again {times} and was not diagnosed at once.</p>'
    following = next_html(incident.get("next_action"))
    return (
        f'<article class="card"><h3><a href="{text(link)}">{name}</a> {badge(incident["status"])}</h3>'
        f'<p class="quiet">{text(about)}</p>{summary}{note}{following}<div class="list">{runs}</div>{decided}</article>'
    )


def _asked(remedy: Mapping[str, Any]) -> str:
    """Return a repair that waits, with the way to where it is decided on."""
    link = f"/incidents/{quote(remedy['incident'])}#repair-{remedy['job']}"
    about = f"{remedy['service']} · cause: {remedy['cause']} · since {_moment(remedy['since'])} UTC"
    plan = (remedy.get("rehearsed") or {}).get("Plan")
    planned = f"<p>Plan: {text(plan)}</p>" if plan else ""
    return (
        f'<div class="row"><div><strong>{text(remedy["notebook"])}</strong><p class="quiet">{text(about)}</p>'
        f'{planned}<p>{text(remedy["why"])}</p></div><a class="button" href="{text(link)}">Decide</a></div>'
    )


def _remedy(remedy: Mapping[str, Any], needs_token: bool, pictures: Mapping[int, tuple[str, str]]) -> str:
    """Return a repair of an incident: why it waits, with the form; or who decided, and what came of it."""
    is_waiting = remedy["state"] == "waiting"
    head = f"<h3>{text(remedy['notebook'])} {badge(remedy['verdict'] or remedy['state'])}</h3>"
    after = f" · comes after the repair of {text(remedy['after'])}" if remedy["after"] else ""
    facts = f'<p class="quiet">cause: {text(remedy["cause"])} · proposed {_moment(remedy["since"])} UTC{after}</p>'
    why = f"<p>{'Waits' if is_waiting else 'Waited'}: {text(remedy['why'])}</p>" if remedy["why"] else ""
    why += f'<p class="wrong">{text(remedy["error"])}</p>' if remedy["error"] else ""
    form = _rehearsed(remedy, pictures) + _form(remedy["job"], needs_token) if is_waiting else ""
    return f'<article class="card" id="repair-{remedy["job"]}">{head}{facts}{why}{_decided(remedy)}{form}</article>'


def _rehearsed(remedy: Mapping[str, Any], pictures: Mapping[int, tuple[str, str]]) -> str:
    """Return what a decision needs: the plan, what it touches and risks, how it is undone, evidence and a figure."""
    address, alt = pictures.get(remedy["job"], ("", ""))
    image = f'<img class="figure" src="{text(address)}" alt="{text(alt)}">'
    figure = f'<div class="wide" role="region" aria-label="Figure" tabindex="0">{image}</div>' if address else ""
    run = remedy.get("rehearsal")
    source = f'<p class="quiet">Rehearsed in {_linked(run, remedy.get("page"))}</p>' if run else ""
    facts = remedy.get("rehearsed") or {}
    return (_facts(facts) if facts else "") + figure + source


def _decided(remedy: Mapping[str, Any]) -> str:
    """Return who decided what on a repair, when and where."""
    said = [
        f"{text(remedy['cause'])} repair {'approved' if one['is_approved'] else 'rejected'} by "
        f"<strong>{text(one['by'])}</strong>, {_moment(one['at'])} UTC ({text(one['via'])})"
        + (f": {text(one['note'])}" if one["note"] else "")
        for one in remedy["decisions"]
    ]
    return "".join(f'<p class="decided">{one}</p>' for one in said)


def _form(job: int, needs_token: bool) -> str:
    token = '<label>Token of the webhook<input type="password" name="token" required autocomplete="off"></label>'
    return (
        f'<form method="post" action="/approvals"><input type="hidden" name="job" value="{job}">'
        '<label>Your name<input name="by" required maxlength="80" autocomplete="name"></label>'
        '<label>Why (for the records)<input name="note" maxlength="1000" autocomplete="off"></label>'
        f'{token if needs_token else ""}<div class="choice"><button name="decision" value="approve">Approve</button>'
        '<button name="decision" value="reject" class="plain">Reject</button></div></form>'
    )


def _found(results: Mapping[str, Any]) -> str:
    """Return what a run found in some words: the cause of a diagnosis, the action and the verdict of a repair."""
    also = results.get("also")
    causes = [results.get("cause"), *(also if isinstance(also, list) else [also])]
    said = " and ".join(str(cause) for cause in causes if cause)
    probability = results.get("probability")
    if said and isinstance(probability, int | float):
        said += f" ({sure(probability)})"
    parts = [f"cause: {said}" if said else "", *(str(results.get(name) or "") for name in ("action", "verdict"))]
    return " · ".join(filter(None, [*parts, "rolled back" if results.get("rolled_back") else ""]))


def _job(job: Mapping[str, Any]) -> str:
    word = job["status"] if job["state"] == "ended" else job["state"]
    what = {
        "alert": "runbook", "recovery": "recovery check", "schedule": f"schedule {job['name']}",
        "remedy": f"repair of {job['name']}", "postmortem": "postmortem",
    }[job["kind"]]  # fmt: skip
    name = " · ".join(filter(None, [what, _found(job["results"])]))
    shown = _linked(job["run_id"], job["page"]) if job["run_id"] else f"<span>{text(job['notebook'])}</span>"
    error = f'<p class="wrong">{text(job["error"])}</p>' if job["error"] else ""
    return f'<div class="row"><div>{shown}<p class="quiet">{text(name)}</p>{error}</div>{badge(word)}</div>'


def _run(run: Mapping[str, Any]) -> str:
    took = "" if run["duration_s"] is None else f" · {run['duration_s']:.0f} s"
    cause = f" · cause: {run['cause']}" if run.get("cause") else ""
    about = f"{_moment(run['started'])} UTC{took} · {run['trigger']}{cause}"
    title = f"<strong>{text(run['title'])}</strong><br>{_linked(run['run_id'], run['page'])}"
    return f'<div class="row"><div>{title}<p class="quiet">{text(about)}</p></div>{badge(run["status"])}</div>'


def _schedule(schedule: Mapping[str, Any]) -> str:
    due = f"{_moment(schedule['next'])} UTC" if schedule["next"] else "never again"
    return (
        f'<div class="row"><div>{text(schedule["name"])}<p class="quiet">{text(schedule["notebook"])}</p></div>'
        f"<span>{text(due)}</span></div>"
    )


def _linked(run_id: str, page: str | None) -> str:
    return f'<a href="{text(page)}">{text(run_id)}</a>' if page else f"<span>{text(run_id)}</span>"


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in facts.items() if value)
    return f'<dl class="facts">{rows}</dl>' if rows else '<p class="quiet">None.</p>'


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M}"


def _time(iso: str) -> str:
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M:%S}"
