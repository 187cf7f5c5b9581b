"""Builds the report site of a project: renders the pages that changed aside, and puts the new site in place at once.

What is rendered are Quarto projects of their own with only those published pages that are new or changed;
all others, the pages of words among them, are taken over from the site before. What these list is filled in afterwards.
So a page costs the same however many there are.
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

from lepton_kit.errors import LeptonError
from lepton_kit.files import sha256_of, write_atomically
from lepton_kit.reports import fallback, quarto
from lepton_kit.reports.cards import CARD, KINDS, PAGE, Card, LeftOut, alone, published, unreadable
from lepton_kit.reports.feed import FEED, write_feed
from lepton_kit.reports.listings import parts_of, write_listings
from lepton_kit.reports.places import contents_of, fill, leave_places
from lepton_kit.reports.publish import reports_folder
from lepton_kit.reports.search import SEARCH, SEARCH_SCRIPT, write_entries, write_index

STATE = "pages.json"
MADE_ANEW = {STATE, SEARCH, SEARCH_SCRIPT, FEED}
NOT_OF_THE_FRAME = {"_site", "screenshots", "listings", *KINDS}
PROBE = "probe.qmd"
AT_ONCE = 100
"""Pages that one process renders: what it holds of each it keeps to its end."""


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


@dataclass(frozen=True)
class _Batch:
    """A Quarto project with pages that are rendered together; each lies in a folder by its number.

    So no name that somebody gave to a notebook reaches the renderer. `is_alone` says that the project renders, but for
    the one page in it.
    """

    source: Path
    cards: list[Card]
    is_alone: bool = False

    def places(self) -> list[tuple[Card, str]]:
        """Return where the page of each card lies, from the project's root."""
        return [(card, f"{card.kind}/{number}") for number, card in enumerate(self.cards)]


@dataclass(frozen=True)
class _State:
    """What the site that is in place was made from."""

    tool: str
    frame: str
    contents: dict[str, str]


def build_site(project: Path, on_line: Callable[[str], None] | None = None, *, is_full: bool = False) -> Site:
    """Build `reports/_site` from what is published; of several processes that ask at once, one builds at a time.

    `on_line` gets each line that the renderer writes; `is_full` renders every page, changed or not.

    Raises InputError when `reports/_quarto.yml` is missing, or the only Quarto there is is too old. Raises LeptonError
    when rendering fails; the site that was there stays as it is.
    """
    reports = reports_folder(project)
    found = quarto.find_quarto()
    tool = f"quarto {found.version}" if found else "nbconvert"
    with alone(reports / ".rendering"), tempfile.TemporaryDirectory(prefix=".building-", dir=reports) as name:
        aside = Path(name)
        with alone(reports / ".publishing"):
            cards, left_out = published(reports), unreadable(reports)
            write_listings(reports, cards)
            state = _State(tool, _frame(reports), {card.folder: card.content for card in cards})
            before = None if is_full else _state_of(reports / "_site")
            if before is not None and (before.tool, before.frame) != (state.tool, state.frame):
                before = None
            known = before.contents if before else {}
            changed = [card for card in cards if known.get(card.folder) != card.content]
            batches = _arrange(reports, aside, changed, with_words=before is None)
        if before != state:
            rendered = aside / "rendered"
            rendered.mkdir()
            for batch in batches:
                left_out += _render(batch, rendered, found, on_line or (lambda line: None))
            gone = {one.page for one in left_out}
            cards = [card for card in cards if card.folder not in gone]
            write_listings(reports, cards)
            changed = [card for card in changed if card.folder not in gone]
            state = _State(state.tool, state.frame, {card.folder: card.content for card in cards})
            if before is not None:
                kept = [page for page, content in before.contents.items() if state.contents.get(page) == content]
                _take_over(reports / "_site", rendered, kept)
            _finish(reports, rendered, cards)
            write_atomically(rendered / STATE, json.dumps(vars(state), indent=1) + "\n")
            _put_in_place(rendered, reports / "_site", aside / "old")
    site = reports / "_site"
    note = "" if found else fallback.NOTE
    rendered_now = tuple(card.folder for card in changed)
    return Site(site, site / "index.html", tool, note, len(cards), rendered_now, tuple(left_out))


def _arrange(reports: Path, aside: Path, changed: list[Card], *, with_words: bool) -> list[_Batch]:
    """Make the Quarto projects that are rendered one after the other, each small enough that memory does not grow.

    The pages of words are in the first, or in none: the site before has them, and only what they list has changed.
    """
    batches = [changed[start : start + AT_ONCE] for start in range(0, len(changed), AT_ONCE)]
    if with_words and not batches:
        batches = [[]]
    arranged = [_Batch(aside / f"source-{number}", batch) for number, batch in enumerate(batches)]
    for number, batch in enumerate(arranged):
        batch.source.mkdir()
        for path in _frame_of(reports):
            if path.suffix != ".qmd" or (with_words and number == 0):
                _copy(path, batch.source / path.name)
        for page in batch.source.glob("*.qmd"):
            leave_places(page)
        for card, place in batch.places():
            shutil.copytree(reports / card.folder, batch.source / place, copy_function=_link)
    return arranged


def _render(batch: _Batch, rendered: Path, found: quarto.Quarto | None, tell: Callable[[str], None]) -> list[LeftOut]:
    """Render an arranged project, and add what comes of it to the new site; return the pages that cannot be."""
    made = batch.source.with_name(f"{batch.source.name}-rendered")
    if found is None:
        left_out = _render_plainly(batch, made, tell)
    else:
        left_out = []
        try:
            _render_by_quarto(batch, made, found, tell)
        except LeptonError as error:
            if not batch.cards:  # no page is to blame
                raise
            if batch.is_alone:
                return [LeftOut(batch.cards[0].folder, str(error))]
            return [gone for part in _split(batch) for gone in _render(part, rendered, found, tell)]
    left_out += _add(batch, made, rendered, {one.page for one in left_out})
    return left_out


def _render_plainly(batch: _Batch, made: Path, tell: Callable[[str], None]) -> list[LeftOut]:
    left_out = []
    fallback.render_words(batch.source, made, tell)
    for card, place in batch.places():
        tell(f"{card.folder}/{PAGE}")
        try:
            fallback.render_page(batch.source, batch.source / place, made / place, card)
        except Exception as error:  # whatever is wrong with one page, the others are shown
            left_out.append(LeftOut(card.folder, f"{type(error).__name__}: {error}"))
    return left_out


def _render_by_quarto(batch: _Batch, made: Path, found: quarto.Quarto, tell: Callable[[str], None]) -> None:
    if not [page for page in batch.source.glob("*.qmd") if page.name != PROBE]:
        quarto.link_to_pages_elsewhere(batch.source / "_quarto.yml")
    quarto.render(found, batch.source, made, tell)
    quarto.let_work_from_a_folder(made)


def _split(batch: _Batch) -> list[_Batch]:
    """Return the parts of a project that cannot be rendered as a whole: first all but its pages, then each page."""
    parts = []
    for number, card in enumerate([None, *batch.cards]):
        source = batch.source.with_name(f"{batch.source.name}-{number}")
        source.mkdir()
        for path in batch.source.iterdir():
            if path.name not in KINDS and path.name[0] != "." and (card is None or path.suffix != ".qmd"):
                _copy(path, source / path.name)
        if card is None and not list(source.glob("*.qmd")):
            (source / PROBE).write_text("---\ntitle: Does this project render?\n---\n", encoding="utf-8")
        parts.append(_Batch(source, [] if card is None else [card], is_alone=card is not None))
    for (_, place), part in zip(batch.places(), parts[1:], strict=True):
        shutil.copytree(batch.source / place, part.source / part.places()[0][1], copy_function=_link)
    return parts


def _add(batch: _Batch, made: Path, rendered: Path, without: set[str]) -> list[LeftOut]:
    """Add what was rendered to the new site, each page with its search entries and all that lies beside it."""
    left_out = []
    for card, place in batch.places():
        if card.folder in without:
            continue
        for path in (batch.source / place).iterdir():
            if path.name not in (PAGE, CARD):  # Quarto copies only what it knows to be linked
                shutil.copy2(path, made / place / path.name)
        try:
            write_entries(made / place / "index.html", card.address)
        except Exception as error:  # whatever is wrong with one page, the others are shown
            left_out.append(LeftOut(card.folder, f"{type(error).__name__}: {error}"))
            continue
        (rendered / card.folder).parent.mkdir(exist_ok=True)
        (made / place).rename(rendered / card.folder)
    for page in batch.source.glob("*.qmd"):
        if page.name != PROBE:
            write_entries(made / f"{page.stem}.html", f"{page.stem}.html")
            (made / f"{page.stem}.html").rename(rendered / f"{page.stem}.html")
    _add_missing(made, rendered)
    return left_out


def _copy(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        shutil.copy2(path, target)


def _add_missing(made: Path, rendered: Path, *, with_words: bool = False) -> None:
    """Add what surrounds the pages, style sheets and scripts among it, and is not there yet.

    Pages of words only where that is said: of a project without a home page, Quarto makes one that leads elsewhere.
    """
    for top in made.iterdir():
        if top.name in KINDS or top.name in MADE_ANEW or (top.suffix == ".html" and not with_words):
            continue
        for path in [top, *top.rglob("*")]:
            target = rendered / path.relative_to(made)
            if path.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(str(path), str(target))


def _take_over(site: Path, rendered: Path, kept: list[str]) -> None:
    """Add the pages that did not change; as they are never written again, a second name for their files will do."""
    for page in kept:
        if (site / page).is_dir() and not (rendered / page).exists():
            shutil.copytree(site / page, rendered / page, copy_function=_link)
    _add_missing(site, rendered, with_words=True)


def _finish(reports: Path, rendered: Path, cards: list[Card]) -> None:
    """Write what tells of all pages: listings, search index and feed."""
    parts = parts_of(cards)
    for source in reports.glob("*.qmd"):
        fill(rendered / f"{source.stem}.html", contents_of(source) | parts)
    words = [f"{source.stem}.html" for source in sorted(reports.glob("*.qmd"))]
    write_index(rendered, [*words, *(f"{card.folder}/index.html" for card in cards)])
    write_feed(reports, rendered, cards)
    # Quarto's pages ask which of its own listings lead to them: none do.
    write_atomically(rendered / "listings.json", "[]\n")
    write_atomically(rendered / "listings.json.js", 'leptonFetched["listings.json"]("[]");\n')


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without such names
        shutil.copy2(source, target)


def _state_of(site: Path) -> _State | None:
    try:
        return _State(**json.loads((site / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none yet, or of another version of the kit: all is rendered anew
        return None


def _frame(reports: Path) -> str:
    """Return a hash of all that every page is made with: the Quarto project, and this package."""
    files = [*_frame_of(reports), Path(__file__).parent]
    seen = "".join(f"{path.name} {sha256_of(path)}\n" for path in files)
    return hashlib.sha256(seen.encode()).hexdigest()


def _frame_of(reports: Path) -> list[Path]:
    return [path for path in sorted(reports.iterdir()) if path.name not in NOT_OF_THE_FRAME and path.name[0] != "."]


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
