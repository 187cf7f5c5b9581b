"""Writes parameters into a notebook as Python has them, where papermill knows only what JSON holds."""

from __future__ import annotations

from typing import Any

from papermill.translators import PythonTranslator


class LiteralTranslator(PythonTranslator):  # type: ignore[misc]
    r"""Writes tuples, sets, bytes, complex numbers and keys that are no text, too.

    Examples
    --------
    >>> LiteralTranslator.translate({1: (0.5,), "b": {b"x"}, None: float("nan")})
    '{1: (0.5,), "b": {b\'x\'}, None: float(\'nan\')}'
    """

    @classmethod
    def translate(cls, value: Any) -> str:
        """Return a value as source."""
        if isinstance(value, tuple):
            return f"({''.join(f'{cls.translate(item)}, ' for item in value).rstrip(' ' if len(value) == 1 else ', ')})"
        if isinstance(value, set | frozenset):
            items = ", ".join(sorted(map(cls.translate, value)))
            braced = f"{{{items}}}" if value else "set()"
            return f"frozenset({braced if value else ''})" if isinstance(value, frozenset) else braced
        if isinstance(value, complex):
            return f"complex({cls.translate(value.real)}, {cls.translate(value.imag)})"
        return repr(value) if isinstance(value, bytes) else str(super().translate(value))

    @classmethod
    def translate_dict(cls, value: dict[Any, Any]) -> str:
        """Return a dict as source."""
        return f"{{{', '.join(f'{cls.translate(key)}: {cls.translate(item)}' for key, item in value.items())}}}"
