"""Evidence of the log, and of time: when each signal began to move, and which of them came before the symptom."""

from __future__ import annotations

import pandas as pd

from lepton_kit.diagnosis.case import Case, onset_table
from lepton_kit.diagnosis.evidence.base import Evidence, NotCheckedError, answer, evidence
from lepton_kit.diagnosis.evidence.model import dated_early, in_its_unit
from lepton_kit.telemetry.health import Periods
from lepton_kit.telemetry.logs import digest
from lepton_kit.telemetry.recordings import printable

ALARMING = ("WARNING", "ERROR", "CRITICAL")
FEWEST_LINES, LONGEST_SHOWN = 3, 80


@evidence(needs=("logs",))
def log_templates(case: Case) -> Evidence:
    """Answer whether warnings or errors of a new kind came, or burst: `new`, `bursting` or `usual`.

    Lines are counted by their template. Their text is shown but not weighed: its author could write anything.
    """
    logs, window = case.recording.logs, case.recording.incident.window
    periods = Periods(pd.Timestamp(window.start), case.onset, pd.Timestamp(window.end))
    alarming = logs[logs["level"].str.upper().isin(ALARMING)]
    found = digest(alarming, periods)
    marked = found[found["mark"].isin(["new", "bursting"]) & (found["now"] >= FEWEST_LINES)]
    told = [
        f"{printable(str(row['template']), LONGEST_SHOWN)!r} ({row['now']} lines)" for row in marked.to_dict("records")
    ]
    if marked.empty:
        return answer("usual", f"no kind of warning or error is new or bursts, in {len(logs)} lines", 0.0, "lines")
    summary = f"{len(marked)} kinds of warnings or errors are new or burst: {'; '.join(told[:3])}"
    since = alarming.loc[alarming["time"] >= case.onset, "time"]
    onset = pd.Timestamp(since.iloc[0]) if len(since) else None
    return answer(str(marked["mark"].iloc[0]), summary, marked["now"].sum(), "lines", onset=onset)


OF = {
    "broken rows": "inputs",
    "rows out of order": "inputs",
    "size of the inputs": "inputs",
    "size of the actuals": "actuals",
    "latency": "compute",
    "time to first token": "compute",
    "missing workers": "compute",
    "memory": "compute",
    "errors": "errors",
    "misses": "symptom",
}
"""What each signal that `onset_table` dates is a sign of."""


def signal_order(case: Case) -> pd.DataFrame:
    """Return the signals that moved, in order of their onsets: `signal`, `of`, `since`, `before_symptom` (s).

    A version that went into service within the window is a signal too. A version that answers as the one before
    did is none. The symptom is the fall of the promise, or the onset of the case where that did not fall.
    """
    moved = onset_table(case)
    counted = moved[moved["counts"]].to_dict("records")
    rows = [(row["symptom"], OF.get(row["symptom"], "symptom"), row["since"]) for row in counted]
    window = case.recording.incident.window
    rows += [
        (f"deployment of {item.version}", "deployment", pd.Timestamp(item.time))
        for item in case.deployments
        if window.start <= item.time <= window.end
        and not (item.version == case.recording.incident.versions.current and case.answers_alike)
    ]
    symptom = next((since for _, of, since in rows if of == "symptom"), case.onset)
    table = pd.DataFrame(rows, columns=["signal", "of", "since"]).sort_values("since", kind="stable", ignore_index=True)
    return table.assign(before_symptom=[(symptom - since).total_seconds() for since in table["since"]])


@evidence(needs=("requests",))
def first_signal(case: Case) -> Evidence:
    """Answer which signal moved first, if any did before the symptom or with it.

    `inputs first`, `actuals first`, `deployment first`, `compute first`, `errors first`, `symptom alone`, or else
    `nothing moved`. A cause comes before its effect; a change point is only known to some rows, so that what lies so
    little after the symptom (`dated_early`) counts as with it.
    """
    if case.before.empty or case.during.empty:
        raise NotCheckedError("no requests before the onset, or none since")
    order = signal_order(case)
    if order.empty:
        return answer("nothing moved", "no signal moved")
    early = order[(order["of"] != "symptom") & (order["before_symptom"] >= -dated_early(case).total_seconds())]
    told = "; ".join(f"{row['signal']} {since_text(row['before_symptom'])}" for row in early.head(4).to_dict("records"))
    if early.empty:
        return answer("symptom alone", "nothing else moved before the symptom, or with it")
    first = early.iloc[0]
    ahead, onset = float(first["before_symptom"]), pd.Timestamp(first["since"])
    return answer(f"{first['of']} first", told, ahead, "s before the symptom", onset=onset)


def since_text(seconds: float) -> str:
    """Return how long before or after the symptom something was.

    >>> since_text(90.0), since_text(-7200.0)
    ('90 s before the symptom', '2 hours after the symptom')
    """
    amount, unit = in_its_unit(pd.Timedelta(seconds=abs(seconds)))
    return f"{amount:.0f} {unit} {'before' if seconds >= 0 else 'after'} the symptom"
