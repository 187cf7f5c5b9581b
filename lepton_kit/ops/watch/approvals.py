"""The form by which a person approves or rejects a repair on the status page, and who may send it.

Who follows a signed link may decide on its repair (`links.py`), and whom a trusted proxy names, from a page of this
server. Else, where the webhook's token is set, its bearer may. Where none is set, only a page of this very server may,
opened on this machine: the connection, the address that the browser asked for and the origin that it names must all say
so, so that no other site's page, and no name that was bound to this machine for the purpose, can send it (cross-site
request forgery, DNS rebinding).
"""

from __future__ import annotations

import getpass
import hmac
import os
import platform
import time
import unicodedata
from collections.abc import Mapping
from urllib.parse import parse_qs

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.door import host_name
from lepton_kit.ops.watch.jobs import Decision, Via
from lepton_kit.ops.watch.webhook import LOOPBACK, Gate

BODY_LIMIT = 16 * 1024
MOST_FIELDS = 20
MOST_DIGITS = 15  # of a job's number
LONGEST_NAME, LONGEST_NOTE = 80, 1000
FORM_TYPE = "application/x-www-form-urlencoded"


def read_form(body: bytes, most: int = MOST_FIELDS) -> dict[str, str]:
    """Return the fields of a form; of one that is given twice, the last value.

    Raises InputError when it has too many fields.

    Examples
    --------
    >>> read_form(b"by=Kim+Lee&note=&job=3")
    {'by': 'Kim Lee', 'note': '', 'job': '3'}
    """
    try:
        found = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=most)
    except ValueError as error:
        raise InputError(f"form: has more than {most} fields") from error
    return {name: values[-1] for name, values in found.items()}


def refusal(
    gate: Gate, headers: Mapping[str, str], client: str | None, form: Mapping[str, str], user: str = ""
) -> tuple[int, str] | None:
    """Return the status and the reason with which a decision is refused; None when it may be taken.

    Names of headers are in small letters; `token` of the form is what the person gave, `user` whom a proxy named.
    """
    if user:
        return None if is_own_form(headers) else (403, "refused: the form was not sent from a page of this server")
    if gate.token is not None:
        given = form.get("token", "").strip().encode()
        return None if hmac.compare_digest(given, gate.token) else (401, "refused: the token is missing or wrong")
    is_passed_on = "x-forwarded-for" in headers or "forwarded" in headers  # a proxy on this machine stands for others
    if client not in LOOPBACK or is_passed_on or host_name(headers.get("host", "")) not in LOOPBACK:
        return 403, "refused: no token is set under [watch], so only this machine may decide"
    if not is_own_form(headers):
        return 403, "refused: the form was not sent from a page of this server; use its page or `lepton approve`"
    return None


def is_own_form(headers: Mapping[str, str]) -> bool:
    """Say whether a form was sent from a page of this very server, and not from another site's.

    The scheme is what the browser says: a proxy before this server may end TLS.
    """
    scheme, _, host = headers.get("origin", "").partition("://")
    is_same = scheme in ("http", "https") and host == headers.get("host", "")
    return is_same and headers.get("sec-fetch-site", "same-origin") == "same-origin"


def read_decision(form: Mapping[str, str], via: Via = "status page") -> tuple[int, Decision]:
    """Return the number of the repair's job and what the form says of it.

    Raises InputError when the form is incomplete, or `make_decision` refuses what it says.
    """
    job, chosen = form.get("job", ""), form.get("decision", "")
    if not (job.isascii() and job.isdecimal() and len(job) <= MOST_DIGITS):
        raise InputError(f"form: job = {job[:40]!r}: must be the number of a repair")
    if chosen not in ("approve", "reject"):
        raise InputError(f"form: decision = {chosen[:40]!r}: must be 'approve' or 'reject'")
    return int(job), make_decision(chosen == "approve", form.get("by", ""), via, form.get("note", ""))


def this_user() -> str:
    """Return who uses this process, for the records: `user@host`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{platform.node()}"


def make_decision(is_approved: bool, by: str, via: Via, note: str) -> Decision:
    """Return a decision of now.

    Raises InputError when nobody is named, or a text is too long or holds control characters.
    """
    return Decision(is_approved, time.time(), checked_name(by), via, plain(note, "the note", LONGEST_NOTE))


def checked_name(by: str) -> str:
    """Return a person's name in one line. Raises InputError when it is empty, too long, or holds control characters."""
    if not (name := plain(by, "your name", LONGEST_NAME)):
        raise InputError("your name: is missing; what a person does is recorded with a name")
    return name


def plain(text: str, what: str, longest: int = LONGEST_NOTE) -> str:
    """Return a person's text in one line. Raises InputError when it is too long or holds control characters."""
    text = " ".join(text.split())
    if len(text) > longest:
        raise InputError(f"{what}: has {len(text)} characters; {longest} are allowed")
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in text):
        raise InputError(f"{what}: {text!a} holds control characters, which are not allowed")
    return text
