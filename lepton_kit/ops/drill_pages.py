"""The page of drills that were made together: how many ended as they should, the scores, and what went wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from functools import partial
from pathlib import Path

import pandas as pd

from lepton_kit import plots
from lepton_kit.errors import InputError
from lepton_kit.ops.drill_results import Results, read_results
from lepton_kit.ops.drill_scores import (
    CAUSES,
    SCORED,
    TARGETS,
    by_type,
    confusion,
    drill_rows,
    is_benign,
    reliability,
    scores,
    times,
)
from lepton_kit.ops.drills import VERDICTS, Drilled
from lepton_kit.ops.page_figures import drawn
from lepton_kit.reports.blocks import Block, Code, Facts, Figure, Heading, Table, Words, as_page
from lepton_kit.reports.cards import FIGURE, Card, place
from lepton_kit.reports.publish import reports_folder

DOWNLOAD = "drills.json"
ENOUGH = 30
"""Drills in which a cause was named, below which a curve of stated probabilities would show chance alone."""

MATRIX = "confusion"
"""The figure that stands for the page in listings."""

"""Of a figure, in inches."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

SCORE_WORDS = {
    "macro-F1": "F1 of each cause there was, averaged",
    "accuracy": "drills whose cause was named right",
    "right remedy first": "drills with a fault whose cause, and so whose remedy, was named right first",
    "right where one is named": "drills with a fault in which some cause was named",
    "false repairs on benign": "drills without a fault in which a cause was named, and so a repair",
    "abstained": "drills in which the evidence did not decide: a person is asked",
}


@dataclass(frozen=True)
class Drills:
    """Results of drills with what is counted of them."""

    id: str
    results: Results
    rows: pd.DataFrame
    scores: Mapping[str, float]
    confusion: pd.DataFrame

    @property
    def bad(self) -> list[Drilled]:
        """Return those that did not end as they should."""
        return [one for one in self.results.drills if not one.is_as_it_should_be]


def publish_drills(project: Path, path: Path) -> Card:
    """Publish results of drills, in place of an earlier page of the same file; the site shows it when it is built.

    Parameters
    ----------
    project
        The project's root.
    path
        The file of results, as `lepton drill` writes it.

    Raises
    ------
    InputError
        When the results cannot be read, or hold no drill.
    """
    reports = reports_folder(project)
    drills = read_drills(path)
    blocks = page_blocks(drills)
    matrix = next(one.content for one in blocks if isinstance(one, Figure) and one.name == MATRIX)
    slim = [replace(one, extra={k: v for k, v in one.extra.items() if k == SCORED}) for one in drills.results.drills]
    held = replace(drills.results, drills=tuple(slim))  # without the folders of whoever made them
    files: dict[str, bytes | Path] = {FIGURE: matrix, DOWNLOAD: json.dumps(held.plain(), indent=1).encode() + b"\n"}
    card = card_of(drills)
    return place(reports, card, as_page(card, blocks, files), files)


def read_drills(path: Path) -> Drills:
    """Read results, and count what is scored.

    Raises
    ------
    InputError
        When the file does not hold results, holds no drill, or its name cannot be that of a page.
    """
    results = read_results(path)
    if not results.drills:
        raise InputError(f"{path}: holds no drill, so there is nothing to show")
    if not NAME.fullmatch(path.stem):
        raise InputError(f"{path}: its name becomes that of its page: only letters, digits, '-', '_' and '.'")
    rows = drill_rows(results.drills)
    return Drills(path.stem, results, rows, scores(rows), confusion(rows))


def card_of(drills: Drills) -> Card:
    """Return what listings say of drills."""
    results, count = drills.results, len(drills.rows)
    return Card(
        kind="drills",
        id=drills.id,
        title=_title(results),
        date=f"{results.made.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}",
        description=_in_short(drills),
        group="drills",
        categories=(results.kind,),
        image_alt=_matrix_in_words(drills.confusion),
        facts={
            "kind": results.kind, "drills": str(count), "macro-f1": f"{drills.scores['macro-F1']:.3f}",
            "ended": f"{count - len(drills.bad)} of {count}",
        },
    )  # fmt: skip


def page_blocks(drills: Drills) -> list[Block]:
    """Return the page of drills, from its facts to its provenance."""
    return [
        Facts(_facts(drills), moments=("Made",)),
        Heading("In short"),
        Words(_in_short(drills)),
        *_scores(drills),
        *_confusion(drills),
        *_reliability(drills),
        *_faults(drills),
        *_bad(drills),
        *_provenance(drills),
    ]


def _title(results: Results) -> str:
    count = len(results.drills)
    return f"{count} {results.kind} drill{'s' * (count != 1)}"


def _facts(drills: Drills) -> dict[str, str]:
    results = drills.results
    return {
        "Kind": "live: real processes and real load" if results.kind == "live" else "simulated: under a virtual clock",
        "Drills": f"{len(results.drills)}, of {drills.rows['fault'].nunique()} types",
        "Ended": f"{len(results.drills) - len(drills.bad)} as they should",
        "Seed": str(results.seed),
        "Made": f"{results.made.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "Version of the kit": results.kit,
        "Scored by": results.scored_by,
    }


def _in_short(drills: Drills) -> str:
    """Return what the drills came to in a few sentences."""
    rows, found = drills.rows, drills.scores
    faulty = int((~is_benign(rows)).sum())
    good = len(rows) - len(drills.bad)
    sentences = [f"{good} of {len(rows)} {drills.results.kind} drills ended as they should."]
    if faulty:
        right = round(found["right remedy first"] * faulty)
        sentences.append(f"Of {faulty} with a fault, {right} had the right remedy named first.")
    if benign := len(rows) - faulty:
        wrong = round(found["false repairs on benign"] * benign)
        sentences.append(f"Of {benign} in which nothing was wrong, {wrong or 'none'} would have been repaired.")
    took = times(rows)
    if took["detect"].drills:
        sentences.append(f"Half of the alerts fired within {_seconds(took['detect'].median)} of the fault.")
    if missed := [name for name, target in TARGETS.items() if _is_missed(found[name], name)]:
        sentences.append(f"Short of its target: {', '.join(missed)}.")
    return " ".join(sentences)


def _is_missed(value: float, name: str) -> bool:
    return not math.isnan(value) and not TARGETS[name].is_met(value)


def _scores(drills: Drills) -> list[Block]:
    rows = [
        [name, _score(value), *_against_target(name, value), SCORE_WORDS[name]] for name, value in drills.scores.items()
    ]
    took = times(drills.rows)
    lines = [
        [f"to {name}, {since}", str(found.drills), _seconds(found.median), _seconds(found.p90)]
        for (name, found), since in zip(took.items(), ("since the fault began", "since the alert"), strict=True)
    ]
    return [
        Heading("Scores"),
        Table(["Score", "Value", "Target", "Met", "What it is"], rows),
        Table(["Time", "Drills that came to it", "Median", "90th percentile"], lines),
    ]


def _against_target(name: str, value: float) -> tuple[str, str]:
    target = TARGETS.get(name)
    if target is None:
        return "", ""
    said = f"at {'most' if target.is_most else 'least'} {target.limit:g}"
    return said, "not known" if math.isnan(value) else "yes" if target.is_met(value) else "no"


def _confusion(drills: Drills) -> list[Block]:
    counts = drills.confusion
    rows = [[cause, *(str(count) for count in counts.loc[cause])] for cause in counts.index]
    caption = "How often each true cause (rows) was named what (columns). Of two faults at once, either counts as true."
    return [
        Heading("What was named"),
        drawn(partial(plots.confusion_matrix, counts), caption=caption, alt=_matrix_in_words(counts), name=MATRIX),
        Table(["True cause", *(f"named {name}" for name in counts.columns)], rows),
    ]


def _matrix_in_words(counts: pd.DataFrame) -> str:
    parts = []
    for cause in CAUSES:
        row = counts.loc[cause].to_dict()
        if total := sum(row.values()):
            named = ", ".join(f"{count} {name}" for name, count in row.items() if count)
            parts.append(f"of {total} drills whose true cause was {cause}, there were named {named}")
    return f"Confusion matrix: {'; '.join(parts)}."


def _reliability(drills: Drills) -> list[Block]:
    table = reliability(drills.rows)
    total = int(table["drills"].sum())
    heading = Heading("How sure it was, and how right")
    if total < ENOUGH:
        return [heading, Words(f"Too few to tell: a cause was named in {total} drills, and {ENOUGH} are needed.")]
    groups = table.to_dict("records")
    said = "; ".join(f"{one['right']:.0%} right where {one['stated']:.0%} was stated" for one in groups)
    rows = [
        [_group(one["probability"]), f"{one['stated']:.3f}", f"{one['right']:.3f}", str(one["drills"])]
        for one in groups
    ]
    caption = "Stated probabilities against how often they were right. Above the diagonal the diagnosis is too modest."
    return [
        heading,
        drawn(
            partial(plots.reliability_curve, table),
            caption=caption,
            alt=f"Stated and measured shares by group: {said}.",
            name="reliability",
        ),
        Table(["Stated probability", "Mean stated", "Right", "Drills"], rows),
    ]


def _group(interval: pd.Interval) -> str:
    return f"above {max(0.0, interval.left):g} to {interval.right:g}"


def _faults(drills: Drills) -> list[Block]:
    rows = [
        [
            str(name), f"{row['drills']:.0f}", _range(row["least severity"], row["greatest severity"]),
            f"{row['alerts']:.0f}", _score(row["right"]), _score(row["recovered of alerts"]),
            _seconds(row["detected after (s)"]), _seconds(row["recovered after (s)"]),
        ]
        for name, row in by_type(drills.rows).T.to_dict().items()
    ]  # fmt: skip
    head = ["Fault", "Drills", "Severity", "Alerts", "Right first", "Recovered", "Detected after", "Recovered after"]
    told = (
        "Right first: the share whose cause, and so whose remedy, was named right first. Recovered: of those with an "
        "alert. Times are medians, since the fault began and since the alert."
    )
    return [Heading("By fault"), Words(told), Table(head, rows), *_meanings(drills)]


def _meanings(drills: Drills) -> list[Block]:
    """Return what each fault is, those of pairs one by one."""
    names = dict.fromkeys(part for fault in drills.rows["fault"] for part in fault.split("+"))
    rows = [[name, drills.results.faults[name]] for name in names if name in drills.results.faults]
    return [Heading("What each fault is", 3), Table(["Fault", "What it is"], rows)] if rows else []


def _bad(drills: Drills) -> list[Block]:
    heading = Heading("What did not end as it should")
    if not drills.bad:
        return [heading, Words("Every drill ended as it should.")]
    rows = [
        [
            f"{one.fault}, severity {one.severity:.2f}, seed {one.seed}", " and ".join(one.causes),
            one.alert.removesuffix("BudgetBurn") or "none",
            f"{' and '.join([one.cause, *one.also])} ({one.probability:.2f})", "; ".join(one.actions) or "nothing",
            ": ".join([one.verdict, VERDICTS.get(one.verdict, "")]) + (f"; {one.error}" if one.error else ""),
        ]
        for one in drills.bad
    ]  # fmt: skip
    return [heading, Table(["Drill", "True cause", "Alert", "Named", "Done", "Ended, and why"], rows)]


def _provenance(drills: Drills) -> list[Block]:
    told = "Everything on this page is counted from the file beside it; nothing was run for the page."
    commands = [drills.results.command] * bool(drills.results.command)
    return [
        Heading("Provenance"),
        Words(told),
        Code("\n".join([*commands, f"lepton publish --drills {drills.id}.json"])),
    ]


def _score(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".rstrip("0").rstrip(".")


def _seconds(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f} s"


def _range(least: float, most: float) -> str:
    return f"{least:.2f}" if least == most else f"{least:.2f} to {most:.2f}"
