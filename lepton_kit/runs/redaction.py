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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

BLOCK = 1 << 20  # bytes of a file that are searched at a time
SHORTEST_LINE = 8  # characters: lines of a secret of several lines that are secret by themselves
SEPARATOR = r"(?:\x1b\[[0-9;]*[A-Za-z]|\\u001b\[[0-9;]*[A-Za-z]|\\x1b\[[0-9;]*[A-Za-z]|\r?\n|\\r|\\n)"
SEPARATORS = re.compile(SEPARATOR)
BROKEN_OFF = re.compile(r"\x1b(?:\[[0-9;]*)?$")  # a colour code of which a stream has not yet brought the end


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
        # The longest first: so a short form never leaves the rest of a longer one behind.
        self._names = dict(sorted(found.items(), key=lambda item: -len(item[0])))
        self._marks = {name: self._mark(name) for name in values}
        self._plain = {SEPARATORS.sub("", pattern): pattern for pattern in self._names}
        self._plain.pop("", None)
        self._tolerant: dict[str, re.Pattern[str]] = {}

    def text(self, text: str) -> str:
        """Return a text without the values of secrets."""
        for pattern, name in self._names.items():
            if pattern in text:
                text = text.replace(pattern, self._marks[name])
        if SEPARATORS.search(text):
            text = self._separated(text)
        return text

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
        overlap = 4 * max((len(pattern) for pattern in self._names), default=0)
        tail = ""
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                text = tail + block.decode("utf-8", "surrogateescape")
                if (name := self._first_in(text)) is not None:
                    return name
                tail = text[-overlap:] if overlap else ""
        return None

    def held_back(self, text: str) -> int:
        """Return how many characters at the end of a text may be the beginning of a secret's value."""
        longest = max(map(len, self._plain), default=0)
        window = text[-4 * longest :] if longest else ""
        code = BROKEN_OFF.search(window)
        tail = SEPARATORS.sub("", window[: code.start()] if code else window)
        begun = max((_overlap(tail, pattern) for pattern in self._plain), default=0)
        if not begun:
            return 0
        return len(window) - _position_before(window[: code.start()] if code else window, begun)

    def _mark(self, name: str) -> str:
        mark = f"[secret {name}]"
        return "[***]" if any(pattern in mark for pattern in self._names) else mark

    def _separated(self, text: str) -> str:
        stripped = SEPARATORS.sub("", text)
        for plain, pattern in self._plain.items():
            if plain in stripped:
                mark = self._marks[self._names[pattern]].replace("\\", r"\\")
                text = self._expression(plain).sub(mark, text)
        return text

    def _expression(self, plain: str) -> re.Pattern[str]:
        if plain not in self._tolerant:
            self._tolerant[plain] = re.compile(f"{SEPARATOR}*".join(map(re.escape, plain)))
        return self._tolerant[plain]

    def _first_in(self, text: str) -> str | None:
        stripped = SEPARATORS.sub("", text)
        for pattern, name in self._names.items():
            if pattern in text:
                return name
        for plain, pattern in self._plain.items():
            if plain in stripped:
                return self._names[pattern]
        return None


class StreamRedactor:
    """Redacts a text that comes in pieces: what may be the beginning of a value is held back until more is known."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece and return what can be shown by now."""
        text = self._redactor.text(self._held + piece)
        shown = len(text) - self._redactor.held_back(text)
        self._held = text[shown:]
        return text[:shown]

    def close(self) -> str:
        """Return what was held back: nothing more comes, so it is no value."""
        text, self._held = self._held, ""
        return text


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
