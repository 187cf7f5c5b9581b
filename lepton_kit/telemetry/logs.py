"""Log lines: as a service's declaration names them, and by template: what they say, how often, what is new or bursting.

Templates are found by Drain (He, Zhu, Zheng and Lyu, ICWS 2017; the package drain3). A log line is untrusted text: its
length and the number of templates are bounded, control characters are made visible, and pages escape it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy

from lepton_kit.telemetry.databases import TIME, Read, Window
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.health import Periods
from lepton_kit.telemetry.readers import TIMES
from lepton_kit.telemetry.recordings import LOG_COLUMNS, flat_fields, object_of, printable
from lepton_kit.telemetry.rows import LINE, read_lines

LONGEST, MOST_TOKENS, MOST_TEMPLATES = 300, 40, 200
"""Characters and words of a line that are looked at, and templates that are kept; a line beyond them is `OTHER`."""

OTHER = "(other lines)"
SIMILAR = 0.8
"""Share of words that must agree for two lines to be one template: one word in five may differ."""

BURST_FACTOR, BURST_LINES, BURST_P = 3.0, 10, 0.001
"""A template bursts when it comes this many times as often as before, in at least this many lines, not by chance."""

MASKED = (
    (re.compile(r"\b[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b"), "<address>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b0x[0-9a-f]+\b|\b(?=[a-f]*\d)[0-9a-f]{8,}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d+(?:e[-+]?\d+)?|\d{4,})(?![\w.])", re.IGNORECASE), "<number>"),
)
"""What is a value wherever it stands. Whole numbers of up to three digits stay: statuses tell lines apart."""


def templates(messages: Iterable[str]) -> list[str]:
    """Return the template of each message, with `<*>` for the words that vary.

    >>> lines = ["job 12.5 of user anna is done", "job 11.25 of user bert is done", "POST / answered 200"]
    >>> templates(lines)
    ['job <number> of user <*> is done', 'job <number> of user <*> is done', 'POST / answered 200']
    """
    from drain3 import TemplateMiner
    from drain3.template_miner_config import TemplateMinerConfig

    config = TemplateMinerConfig()
    config.drain_sim_th = SIMILAR
    config.parametrize_numeric_tokens = False
    miner = TemplateMiner(config=config)
    masked = [_masked(message) for message in messages]
    clusters: dict[str, int] = {}
    for line in dict.fromkeys(masked):
        if len(miner.drain.clusters) >= MOST_TEMPLATES and miner.match(line, "fallback") is None:
            clusters[line] = 0
        else:
            clusters[line] = int(miner.add_log_message(line)["cluster_id"])
    found = {cluster.cluster_id: cluster.get_template() for cluster in miner.drain.clusters}
    return [found.get(clusters[line], OTHER) for line in masked]


def _masked(message: str) -> str:
    line = " ".join(printable(message, LONGEST).split()[:MOST_TOKENS])
    for pattern, name in MASKED:
        line = pattern.sub(name, line)
    return line or "(empty line)"


def digest(logs: pd.DataFrame, periods: Periods) -> pd.DataFrame:
    """Count the templates of log lines (`time`, `level`, `message`) in a period and in the one before it.

    Returns
    -------
    DataFrame
        `level`, `template`, `before`, `now` (lines), and `mark`: `new` where there was none before, `bursting` where it
        comes at least `BURST_FACTOR` times as often (and the counts are not the same rate by chance: exact conditional
        test of two Poisson rates, Przyborowski and Wilenski 1940), `gone`, or nothing. Marked ones first, then by level
        and number.
    """
    inside = logs[(logs["time"] >= periods.start) & (logs["time"] <= periods.end)]
    side = np.where(inside["time"] < periods.split, "before", "now")
    parts = [inside.assign(side=side).loc[inside["level"] == level] for level in sorted(inside["level"].unique())]
    told = [part.assign(template=templates(part["message"])) for part in parts]
    if not told:
        return pd.DataFrame(columns=["level", "template", "before", "now", "mark"])
    counts = pd.concat(told).groupby(["level", "template", "side"]).size().unstack(fill_value=0)
    table = counts.reindex(columns=["before", "now"], fill_value=0).reset_index().rename_axis(columns=None)
    table["mark"] = [_mark(before, now) for before, now in zip(table["before"], table["now"], strict=True)]
    order = table["mark"].map({"new": 0, "bursting": 1, "gone": 2, "": 3})
    rank = table["level"].map({"CRITICAL": 0, "ERROR": 1, "WARNING": 2}).fillna(3)
    ranked = table.assign(order=order, rank=rank).sort_values(["order", "rank", "now"], ascending=[True, True, False])
    in_order: pd.DataFrame = ranked.drop(columns=["order", "rank"]).reset_index(drop=True)
    return in_order


def _mark(before: int, now: int) -> str:
    if before == 0:
        return "new"
    if now == 0:
        return "gone"
    is_chance = scipy.stats.binomtest(now, now + before, 0.5, alternative="greater").pvalue >= BURST_P
    return "bursting" if now >= BURST_LINES and now >= BURST_FACTOR * before and not is_chance else ""


# --- the log ----------------------------------------------------------------------------------------------------------

MOST_LINES = 20_000
LEVELS = ("level", "severity", "levelname", "loglevel", "lvl")
MESSAGES = ("message", "msg", "event", "text")
PLAIN = re.compile(
    r"^\W{0,2}(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)\W+"
    r"(?:(?P<level>TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|CRITICAL|FATAL)\b\W*)?(?P<message>.*)$",
    re.IGNORECASE | re.DOTALL,
)
SAME_LEVEL = {"WARN": "WARNING", "FATAL": "CRITICAL", "ERR": "ERROR", "NOTICE": "INFO"}


def read_logs(
    declaration: Declaration, project: Path, start: float, end: float, most: int = MOST_LINES,
    clean: Callable[[Any], Any] = lambda value: value,
) -> Read:  # fmt: skip
    """Read the log lines of a window: JSON lines, or plain text that begins with a time.

    `time`, `level`, `message`, `fields` (JSON text), in order of time. `clean` is given what a line holds, and returns
    what of it may be told. Of too many lines every n-th is kept: of those of level INFO and below, sooner than of the
    others.
    """
    if declaration.logs is None:
        return Read(pd.DataFrame(columns=list(LOG_COLUMNS)))
    telling = read_lines(declaration.logs, project, Window(start, end, most // 2), True)
    usual = read_lines(declaration.logs, project, Window(start, end, most - len(telling.table)), False)
    lines = [
        pair for one in (telling, usual) for pair in zip(one.table.get(TIME, ()), one.table.get(LINE, ()), strict=True)
    ]
    table = pd.DataFrame([_log_entry(*pair, clean) for pair in lines], columns=list(LOG_COLUMNS))
    table["time"] = pd.to_datetime(table["time"], utc=True).astype("datetime64[us, UTC]")
    in_order = table.sort_values("time", kind="stable", ignore_index=True)
    return Read(in_order, telling.problems, telling.total + usual.total, max(telling.step, usual.step))


def _log_entry(time: pd.Timestamp, line: str, clean: Callable[[Any], Any]) -> dict[str, Any]:
    entry = clean(object_of(line))
    if entry:
        rest = {name: value for name, value in entry.items() if name not in (*TIMES, *LEVELS, *MESSAGES, "fields")}
        fields = {**(object_of(entry.get("fields")) or {}), **rest}
        level, message = (next((entry[name] for name in names if name in entry), "") for names in (LEVELS, MESSAGES))
    else:
        found = PLAIN.match(line)
        level, message = (found["level"] or "", clean(found["message"])) if found else ("", clean(line))
        fields = {}
    named = printable(str(level), 20).upper()
    told = json.dumps(flat_fields(fields))
    return {"time": time, "level": SAME_LEVEL.get(named, named), "message": printable(str(message)), "fields": told}
