"""Ids as people type them: whole, by their short end (`97af85` of `20261129T175557Z-incident-diagnosis-97af85`)."""

from __future__ import annotations

from collections.abc import Collection

from lepton_kit.errors import InputError

MOST_NAMED = 8


def short_id(id: str) -> str:
    """Return the end of an id, by which every command knows it.

    >>> short_id("20261129T175557Z-incident-diagnosis-97af85")
    '97af85'
    """
    return id.rpartition("-")[2]


def the_one(given: str, ids: Collection[str], what: str, listed_by: str, but: str = "") -> str:
    """Return the one id that is meant by itself, its end or its beginning.

    Raises InputError when none or several are meant; it names the several. `what` names the kind of id; where none is
    meant, it also has `listed_by`, the command that lists them, and `but`, a further condition (` that succeeded`).

    Examples
    --------
    >>> the_one("97af85", ["20261129T1755Z-tour-97af85", "20261129T1755Z-tour-1109d2"], "run", "lepton runs")
    '20261129T1755Z-tour-97af85'
    """
    for fits in (str.__eq__, str.endswith, str.startswith):
        meant = sorted(id for id in ids if fits(id, given))
        if len(meant) == 1:
            return meant[0]
        if meant:
            more = f" and {len(meant) - MOST_NAMED} more" if len(meant) > MOST_NAMED else ""
            named = ", ".join(meant[:MOST_NAMED])
            raise InputError(f"{what} {given!r}: matches {len(meant)}: {named}{more}; type more characters")
    raise InputError(f"{what} {given!r}: none of the {len(ids)} {what}s{but}; `{listed_by}` lists them")
