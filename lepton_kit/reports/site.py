"""Builds the report site of a project: makes the pages that changed aside, and puts the new site in place at once.

Each page is what was published, in the frame of the site; the frame is rendered when the Quarto project, the renderer
or the kit changed. All other pages are taken over from the site before.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_kit.files import locked, sha256_of, write_atomically
from lepton_kit.reports import quarto
from lepton_kit.reports.cards import CARD, KINDS, PAGE, Card, LeftOut, published, unreadable
from lepton_kit.reports.charts import SCRIPT, SCRIPT_HTML, add_scripts
from lepton_kit.reports.frame import NOTE, fill, frame_of, make_frame, page_html
from lepton_kit.reports.listings import FEED, contents_of, write_feed
from lepton_kit.reports.publish import reports_folder
from lepton_kit.reports.search import SEARCH, SEARCH_SCRIPT, write_entries, write_index

STATE = "pages.json"
MADE_ANEW = {STATE, SEARCH, SEARCH_SCRIPT, FEED}


@dataclass(frozen=True)
class Site:
    """A site that was built: `tool` made it, and `note` is one plain line for the reader, or empty.

    `rendered` are the published pages that had to be, `left_out` those that cannot be; `pages` is how many there are.
    """

    folder: Path
    index: Path
    tool: str
    note: str
    pages: int
    rendered: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()


def build_site(project: Path, on_line: Callable[[str], None] | None = None, *, is_full: bool = False) -> Site:
    """Build `reports/_site` from what is published; of several processes that ask at once, one builds at a time.

    `on_line` gets each line that the renderer writes, and the name of each page; `is_full` renders all anew.

    Raises InputError when `reports/_quarto.yml` is missing, or the only Quarto there is is too old. Raises LeptonError
    when rendering fails; the site that was there stays as it is.
    """
    reports, tell = reports_folder(project), on_line or (lambda line: None)
    site, found = reports / "_site", quarto.find_quarto()
    tool = f"quarto {found.version}" if found else "nbconvert"
    with locked(reports / ".rendering"), tempfile.TemporaryDirectory(prefix=".building-", dir=reports) as name:
        new = Path(name) / "new"
        new.mkdir()
        with locked(reports / ".publishing"):
            cards, left_out = published(reports), unreadable(reports)
            made_with = {"tool": tool, "frame": _frame_sha256(reports)}
            before = {} if is_full else _state_of(site)
            known = before.get("pages") if before == before | made_with else None
            changed = [card for card in cards if known is None or known.get(card.folder) != card.content]
            for card in changed:
                shutil.copytree(reports / card.folder, new / card.folder, copy_function=_link)
        if known != {card.folder: card.content for card in cards}:
            if known is None:
                make_frame(reports, new, found, Path(name), tell)
            else:
                _take_over(site, new, [card for card in cards if card not in changed])
            failed = _make_pages(new, changed, tell)
            left_out, gone = left_out + failed, {one.page for one in failed}
            cards, changed = ([card for card in some if card.folder not in gone] for some in (cards, changed))
            _finish(reports, new, cards)
            state = {**made_with, "pages": {card.folder: card.content for card in cards}}
            write_atomically(new / STATE, json.dumps(state, indent=1) + "\n")
            _put_in_place(new, site, Path(name) / "old")
    rendered = tuple(card.folder for card in changed)
    return Site(site, site / "index.html", tool, "" if found else NOTE, len(cards), rendered, tuple(left_out))


def _make_pages(new: Path, cards: Iterable[Card], tell: Callable[[str], None]) -> list[LeftOut]:
    """Make pages of what was published, which lies in their place already; return those that cannot be made."""
    left_out = []
    for card in cards:
        folder = new / card.folder
        tell(f"{card.folder}/index.html")
        try:
            page = page_html(new, card, (folder / PAGE).read_text(encoding="utf-8"))
            if SCRIPT_HTML in page and not (new / SCRIPT).exists():
                add_scripts(new)
            write_entries(folder / "index.html", card.address, page)
            (folder / "index.html").write_text(page, encoding="utf-8")
            for name in (PAGE, CARD):
                (folder / name).unlink()
        except Exception as error:  # whatever is wrong with one page, the others are shown
            shutil.rmtree(folder)
            left_out.append(LeftOut(card.folder, f"{type(error).__name__}: {error}"))
    return left_out


def _take_over(site: Path, new: Path, cards: Iterable[Card]) -> None:
    """Add the frame and the pages that did not change; as they are never written again, a second name will do."""
    parts = [path.name for path in site.iterdir() if path.name not in (*KINDS, *MADE_ANEW)]
    for part in [*parts, *(card.folder for card in cards)]:
        if (site / part).is_dir():
            shutil.copytree(site / part, new / part, copy_function=_link)
        else:
            _link(str(site / part), str(new / part))


def _finish(reports: Path, new: Path, cards: list[Card]) -> None:
    """Write what tells of all pages: pages of words with their listings, search index and feed."""
    sources = sorted(reports.glob("*.qmd"))
    for source in sources:
        write_atomically(new / f"{source.stem}.html", fill(new, source.stem, contents_of(source, cards)))
    write_index(new, [*(f"{source.stem}.html" for source in sources), *(f"{card.folder}/index.html" for card in cards)])
    write_feed(reports, new, cards)
    # Quarto's pages ask which of its own listings lead to them: none do.
    write_atomically(new / "listings.json", "[]\n")
    write_atomically(new / "listings.json.js", 'leptonFetched["listings.json"]("[]");\n')


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without such names
        shutil.copy2(source, target)


def _state_of(site: Path) -> dict[str, Any]:
    """Return what the site that is in place was made from; nothing where there is none."""
    try:
        found = json.loads((site / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("pages"), dict) else {}


def _frame_sha256(reports: Path) -> str:
    """Return a hash of all that every page is made with: the Quarto project, and this package."""
    files = [*frame_of(reports), Path(__file__).parent]
    seen = "".join(f"{path.name} {sha256_of(path)}\n" for path in files)
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
    """Exchange the names of two folders in one step (Linux, renameat2(2)); return whether this system can."""
    try:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # no Linux, or an old C library
        return False
    return bool(exchange(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)
