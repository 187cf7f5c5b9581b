"""Keeps the values of secrets out of everything that a run saves, in whatever encoding they come.

A value is looked for as it is and as Python's `repr` and `ascii`, JSON, HTML, URLs, hexadecimal and base64 (in all
three alignments) write it, also where colour codes or line breaks stand between its characters. What a program does
to a value beyond that (encrypt it, reverse it, print every other letter) is out of reach.
"""

from __future__ import annotations

import base64
import html
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

BLOCK = 1 << 20  # bytes of a file that are searched at a time
SHORTEST_LINE = 8  # characters: lines of a secret of several lines that are secret by themselves
SEPARATOR = r"(?:\x1b\[[0-9;]*[A-Za-z]|\\u001b\[[0-9;]*[A-Za-z]|\\x1b\[[0-9;]*[A-Za-z]|\r?\n|\\r|\\n)"
SEPARATORS = re.compile(SEPARATOR)
BROKEN_OFF = re.compile(  # a separator of which a stream has not yet brought the end
    r"(?:\r|(?:\x1b|\\u001b|\\x1b)(?:\[[0-9;]*)?|\\(?:x1?|u(?:0(?:01?)?)?)?)$"
)
WIDEST = 16  # characters of a text for each one of a value that stands in it with separators between its characters


class Redactor:
    """Replaces the values of secrets by their names.

    Parameters
    ----------
    values
        Values by the secrets' names.

    Examples
    --------
    >>> Redactor({"key": "hunter2!"}).text("a = 'hunter2!', b = aHVudGVyMiE=")
    "a = '[secret key]', b = [secret key]"
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        found = {pattern: name for name, value in values.items() for pattern in _patterns(value)}
        # The longest first: where several overlap, it names the place.
        self._names = dict(sorted(found.items(), key=lambda item: -len(item[0])))
        self._marks = {name: self._mark(name) for name in values}
        stripped = {pattern: SEPARATORS.sub("", pattern) for pattern in self._names}
        # A value that is mostly line breaks would leave a rest that any text holds.
        self._plain = {
            plain: pattern for pattern, plain in stripped.items() if plain == pattern or len(plain) >= SHORTEST_LINE
        }
        self._widest = WIDEST * max(map(len, self._names), default=0)

    def text(self, text: str) -> str:
        """Return a text without the values of secrets; nothing else in it is changed."""
        return self._marked(text, self._places(text))

    def bytes(self, content: bytes) -> bytes:
        """Return bytes without the values of secrets, whatever else they hold."""
        text = content.decode("utf-8", "surrogateescape")
        return self.text(text).encode("utf-8", "surrogateescape")

    def json(self, value: Any) -> Any:
        """Return a copy of what JSON holds (also of its keys) without the values of secrets."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.json(key): self.json(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.json(item) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            written = self.text(str(value))  # such as a PIN that became a number
            return value if written == str(value) else written
        return value

    def stream(self) -> StreamRedactor:
        """Return a redactor for a text that comes in pieces."""
        return StreamRedactor(self)

    def found_in(self, path: Path) -> str | None:
        """Return the name of a secret that a file holds in any of the encodings, or None."""
        tail = ""
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                text = tail + block.decode("utf-8", "surrogateescape")
                if places := self._places(text):
                    return places[0][2]
                tail = text[-self._widest :] if self._widest else ""
        return None

    def split(self, text: str) -> tuple[str, str]:
        """Split a text that goes on: into what can be shown by now, redacted, and what may be a value's beginning."""
        places = self._places(text)
        end = len(text) - self._begun(text[-self._widest :] if self._widest else "")
        end = min([end, *(start for start, stop, _ in places if stop > end)])
        return self._marked(text[:end], [place for place in places if place[1] <= end]), text[end:]

    def _mark(self, name: str) -> str:
        mark = f"[secret {name}]"
        return "[***]" if any(pattern in mark for pattern in self._names) else mark

    def _marked(self, text: str, places: list[tuple[int, int, str]]) -> str:
        pieces, at = [], 0
        for start, stop, name in places:
            pieces += [text[at:start], self._marks[name]]
            at = stop
        return "".join([*pieces, text[at:]])

    def _places(self, text: str) -> list[tuple[int, int, str]]:
        """Return where values stand (start, stop, name), in order; places that overlap are one."""
        found = [(*place, name) for pattern, name in self._names.items() for place in _occurrences(pattern, text)]
        if SEPARATORS.search(text):
            found += self._separated(text)
        places: list[tuple[int, int, str]] = []
        for start, stop, name in sorted(found, key=lambda place: (place[0], -place[1])):
            if places and start < places[-1][1]:
                places[-1] = (places[-1][0], max(stop, places[-1][1]), places[-1][2])
            else:
                places.append((start, stop, name))
        return places

    def _separated(self, text: str) -> list[tuple[int, int, str]]:
        """Return the places of values between whose characters separators stand."""
        stripped = SEPARATORS.sub("", text)
        found = [
            (*place, self._names[pattern])
            for plain, pattern in self._plain.items()
            for place in _occurrences(plain, stripped)
        ]
        if not found:
            return []
        kept, gone, before = [0], [0], 0  # where each piece between separators begins: when stripped, and what is gone
        for separator in SEPARATORS.finditer(text):
            before += separator.end() - separator.start()
            kept.append(separator.end() - before)
            gone.append(before)

        def at(position: int) -> int:
            return position + gone[bisect_right(kept, position) - 1]

        return [(at(start), at(stop - 1) + 1, name) for start, stop, name in found]

    def _begun(self, text: str) -> int:
        """Return how many characters at the end of a text may be the beginning of a value."""
        begun = max((_overlap(text, pattern) for pattern in self._names), default=0)
        code = BROKEN_OFF.search(text)
        for whole in {text, text[: code.start()] if code else text}:
            stripped = SEPARATORS.sub("", whole)
            if characters := max((_overlap(stripped, pattern) for pattern in self._plain), default=0):
                begun = max(begun, len(text) - _position_before(whole, characters))
        return begun


class StreamRedactor:
    """Redacts a text that comes in pieces: what may be the beginning of a value is held back until more is known."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece and return what can be shown by now."""
        shown, self._held = self._redactor.split(self._held + piece)
        return shown

    def close(self) -> str:
        """Return what was held back: nothing more comes."""
        text, self._held = self._held, ""
        return self._redactor.text(text)


def _occurrences(pattern: str, text: str) -> Iterator[tuple[int, int]]:
    start = text.find(pattern)
    while start >= 0:
        yield start, start + len(pattern)
        start = text.find(pattern, start + len(pattern))


def _patterns(value: str) -> set[str]:
    """Return every form in which a value is looked for."""
    values = {value, value.strip()}
    if len(lines := value.splitlines()) > 1:  # such as a private key, of which every line is shown by itself
        values |= {line.strip() for line in lines if len(line.strip()) >= SHORTEST_LINE}
    found: set[str] = set()
    for each in values:
        once = _written(each)
        found |= once | {form for text in once for form in _escaped(text)}
        found |= set(_base64_forms(each))
    return {form for form in found if form}


def _written(value: str) -> set[str]:
    """Return a value as Python, JSON, HTML, URLs and hexadecimal write it."""
    raw = value.encode("utf-8", "surrogateescape")
    as_bytes = repr(raw)[2:-1]
    urls = {quote(value), quote(value, safe=""), quote_plus(value)}
    lower = {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), url) for url in urls}
    return {value, *_escaped(value), as_bytes, *urls, *lower, raw.hex(), raw.hex().upper()}


def _escaped(value: str) -> set[str]:
    """Return a value as it stands inside the quotes or the markup of another text."""
    quoted = {repr(value)[1:-1], repr(value + "'\"")[1:-4], ascii(value)[1:-1], ascii(value + "'\"")[1:-4]}
    in_json = {json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]}
    upper = {re.sub(r"\\u[0-9a-f]{4}", lambda code: "\\u" + code[0][2:].upper(), form) for form in in_json}
    marked = {html.escape(value), html.escape(value, quote=False), html.escape(value).replace("&#x27;", "&#39;")}
    return quoted | in_json | upper | marked


def _base64_forms(value: str) -> Iterator[str]:
    """Yield what base64 makes of a value wherever it stands among bytes: the characters that hang on it alone."""
    raw = value.encode("utf-8", "surrogateescape")
    encoders: tuple[Callable[[bytes], bytes], ...] = (base64.b64encode, base64.urlsafe_b64encode)
    for encode in encoders:
        yield encode(raw).decode()
        for before in range(3):
            first = -(-before * 8 // 6)
            last = (before + len(raw)) * 8 // 6
            yield encode(b"\0" * before + raw).decode()[first:last]


def _overlap(text: str, pattern: str) -> int:
    """Return the length of the longest end of a text with which a pattern begins, without being it."""
    start = max(0, len(text) - len(pattern) + 1)
    head = pattern[:1]
    while (start := text.find(head, start)) >= 0:
        if pattern.startswith(text[start : start + 8]) and pattern.startswith(text[start:]):
            return len(text) - start
        start += 1
    return 0


def _position_before(text: str, characters: int) -> int:
    """Return where the last so many characters of a text begin, separators not counted."""
    ends = [(match.start(), match.end()) for match in SEPARATORS.finditer(text)]
    position = len(text)
    while characters:
        if ends and ends[-1][1] == position:
            position = ends.pop()[0]
        else:
            position, characters = position - 1, characters - 1
    return position
