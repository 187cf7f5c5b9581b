"""Builds the report site of a project: renders the pages that changed aside, and puts the new site in place at once.

What is rendered is a Quarto project of its own with the pages of words, the listings and only those published pages
that are new or changed; all others are taken over from the site before. So a page costs the same however
many there are.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_kit.files import sha256_of, write_atomically
from lepton_kit.reports import fallback, quarto
from lepton_kit.reports.cards import CARD, KINDS, PAGE, Card, alone, published, write_listings
from lepton_kit.reports.feed import write_feed
from lepton_kit.reports.listings import drop_empty_listings, insert_parts
from lepton_kit.reports.publish import reports_folder

STATE = "pages.json"
NOT_OF_THE_FRAME = {"_site", "listings", *KINDS}
SEARCH = "search.json"


@dataclass(frozen=True)
class Site:
    """A site that was built: `tool` made it, and `note` is one plain line for the reader, or empty.

    `rendered` are the published pages that had to be; `pages` is how many there are.
    """

    folder: Path
    index: Path
    tool: str
    note: str
    pages: int
    rendered: tuple[str, ...]


@dataclass(frozen=True)
class _State:
    """What the site that is in place was made from."""

    tool: str
    frame: str
    contents: dict[str, str]


def build_site(project: Path, on_line: Callable[[str], None] | None = None, *, is_full: bool = False) -> Site:
    """Build `reports/_site` from what is published; of several processes that ask at once, one builds at a time.

    Parameters
    ----------
    project
        The project's root; its `reports/` is the Quarto project.
    on_line
        Called with each line that the renderer writes.
    is_full
        Whether to render every page, changed or not.

    Raises
    ------
    InputError
        When `reports/_quarto.yml` is missing, or the only Quarto there is is too old.
    LeptonError
        When rendering fails; the site that was there stays as it is.
    """
    reports = reports_folder(project)
    found = quarto.find_quarto()
    tool = f"quarto {found.version}" if found else "nbconvert"
    with alone(reports / ".rendering"), tempfile.TemporaryDirectory(prefix=".building-", dir=reports) as aside:
        source = Path(aside) / "source"
        with alone(reports / ".publishing"):
            cards = published(reports)
            write_listings(reports, cards)
            state = _State(tool, _frame(reports), {card.folder: card.content for card in cards})
            before = None if is_full else _state_of(reports / "_site")
            if before is not None and (before.tool, before.frame) != (state.tool, state.frame):
                before = None
            known = before.contents if before else {}
            changed = [card for card in cards if known.get(card.folder) != card.content]
            if before != state:
                _arrange(reports, source, changed)
        if before != state:
            rendered = _render(source, found, changed, on_line or (lambda line: None))
            if before is not None:
                kept = [page for page, content in before.contents.items() if state.contents.get(page) == content]
                _take_over(reports / "_site", rendered, kept)
            _also_as_scripts(rendered)
            write_feed(reports, rendered, cards)
            write_atomically(rendered / STATE, json.dumps(vars(state), indent=1) + "\n")
            _put_in_place(rendered, reports / "_site", Path(aside) / "old")
    site = reports / "_site"
    note = "" if found else fallback.NOTE
    return Site(site, site / "index.html", tool, note, len(cards), tuple(card.folder for card in changed))


def _render(source: Path, found: quarto.Quarto | None, changed: list[Card], tell: Callable[[str], None]) -> Path:
    """Render what was arranged beside it, and return where to."""
    rendered = source.parent / "rendered"
    pages = [path for card in changed for path in (source / card.folder).iterdir()]
    beside = [path for path in pages if path.name not in (PAGE, CARD)]
    if found is not None:
        for page in source.glob("*.qmd"):
            insert_parts(page)
        quarto.render(found, source, rendered, tell)
        quarto.let_work_from_a_folder(rendered)
    else:
        fallback.render(source, rendered, changed, tell)
    for path in beside:  # Quarto copies only what it knows to be linked
        shutil.copy2(path, rendered / path.relative_to(source))
    return rendered


def _arrange(reports: Path, source: Path, changed: list[Card]) -> None:
    """Make the Quarto project that is rendered."""
    source.mkdir()
    for path in reports.iterdir():
        if path.name in NOT_OF_THE_FRAME - {"listings"} or path.name.startswith("."):
            continue
        shutil.copytree(path, source / path.name) if path.is_dir() else shutil.copy2(path, source / path.name)
    for page in source.glob("*.qmd"):
        drop_empty_listings(page)
    for card in changed:
        shutil.copytree(reports / card.folder, source / card.folder)


def _take_over(site: Path, rendered: Path, kept: list[str]) -> None:
    """Add the pages that did not change; as they are never written again, a second name for their files will do."""
    for page in kept:
        if (site / page).is_dir() and not (rendered / page).exists():
            shutil.copytree(site / page, rendered / page, copy_function=_link)
    _merge_search(site / SEARCH, rendered / SEARCH, kept)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without such names
        shutil.copy2(source, target)


def _merge_search(old: Path, new: Path, kept: list[str]) -> None:
    """Add to the index of what was rendered the entries of the pages that were taken over."""
    if not (old.is_file() and new.is_file()):
        return
    folders = {f"{page}/index.html" for page in kept}
    entries: list[dict[str, Any]] = json.loads(new.read_text(encoding="utf-8"))
    there = {entry["objectID"] for entry in entries}
    entries += [
        entry
        for entry in json.loads(old.read_text(encoding="utf-8"))
        if entry["href"].partition("#")[0] in folders and entry["objectID"] not in there
    ]
    write_atomically(new, json.dumps(entries, ensure_ascii=False))


def _also_as_scripts(rendered: Path) -> None:
    """Write what Quarto's pages fetch as scripts too, for `reports/header.html`."""
    for name in (SEARCH, "listings.json"):
        if (rendered / name).is_file():
            text = json.dumps((rendered / name).read_text(encoding="utf-8"))
            write_atomically(rendered / f"{name}.js", f"leptonFetched[{json.dumps(name)}]({text});\n")


def _state_of(site: Path) -> _State | None:
    try:
        return _State(**json.loads((site / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none yet, or of another version of the kit: all is rendered anew
        return None


def _frame(reports: Path) -> str:
    """Return a hash of all that every page is made with: the Quarto project, and this package."""
    files = [path for path in sorted(reports.iterdir()) if path.name not in NOT_OF_THE_FRAME and path.name[0] != "."]
    seen = "".join(f"{path.name} {sha256_of(path)}\n" for path in [*files, Path(__file__).parent])
    return hashlib.sha256(seen.encode()).hexdigest()


def _put_in_place(new: Path, site: Path, old: Path) -> None:
    """Put the new site where the old one was: at no moment is there half of one, and on Linux none without one."""
    if not site.exists():
        new.rename(site)
    elif _exchanged(new, site):
        new.rename(old)
    else:
        site.rename(old)
        try:
            new.rename(site)
        except OSError:
            old.rename(site)
            raise


AT_FDCWD, RENAME_EXCHANGE = -100, 2


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step (Linux, renameat2(2)); return whether that can be had here."""
    try:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # no Linux, or an old C library
        return False
    return bool(exchange(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)
