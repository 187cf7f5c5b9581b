"""Evidence of the log: messages since the onset that did not occur before."""

from __future__ import annotations

import pandas as pd

from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence.base import Evidence, answer, evidence
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
