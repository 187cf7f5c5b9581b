"""Secrets are given as references, so that no saved byte holds their values: `env:NAME` or `file:PATH`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from lepton_kit.errors import InputError

ALLOWED = "a reference: env:NAME (an environment variable) or file:PATH (a file that holds it)"
SHORTEST = 4  # characters: what is shorter occurs by chance, and removing it everywhere would garble a notebook
LONGEST = 100_000  # characters: an environment variable on Linux holds 128 KiB


def is_reference(text: str) -> bool:
    """Return whether a text names where a secret is kept.

    Examples
    --------
    >>> [is_reference(text) for text in ("env:API_KEY", "file:/run/secrets/key", "hunter2", "env:")]
    [True, True, False, False]
    """
    kind, _, rest = text.partition(":")
    return kind in ("env", "file") and bool(rest.strip())


def resolve_secret(reference: str, folder: Path | None = None) -> str:
    """Return the value of a secret.

    Parameters
    ----------
    reference
        `env:NAME` or `file:PATH`; of a file one line break at its end is left out.
    folder
        What a relative PATH starts from: by default the present directory.

    Raises
    ------
    InputError
        When it is no reference (the message does not repeat it: it may be the secret itself), when there is no such
        variable or file, or when the value is too short to be told from other text.
    """
    if not is_reference(reference):
        raise InputError(f"a secret must be given as {ALLOWED}; what was given is not shown here")
    kind, _, rest = reference.partition(":")
    value = _from_environment(rest) if kind == "env" else _from_file(rest, folder or Path())
    if not SHORTEST <= len(value.strip()) <= LONGEST:
        raise InputError(
            f"secret {reference!r}: its value must have {SHORTEST} to {LONGEST} characters, so that it can be kept out "
            "of what a run saves"
        )
    if "\0" in value:
        raise InputError(f"secret {reference!r}: its value must be text without NUL characters")
    return value


def resolve_secrets(references: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the values of secrets by name, as `Redactor` and `secret_environment` take them."""
    return {name: resolve_secret(reference, folder) for name, reference in references.items()}


def without_password(text: str) -> str:
    """Return a text with stars for the passwords, and for the tokens in place of a user, of the addresses in it.

    Examples
    --------
    >>> without_password("postgresql://me:hunter2@db/x and http://127.0.0.1:8000/a@b")
    'postgresql://me:***@db/x and http://127.0.0.1:8000/a@b'
    >>> without_password("https://token@host/x, postgresql://me@db and http://me:it's/so@host")
    'https://***@host/x, postgresql://me@db and http://me:***@host'
    """
    text = re.sub(r"(?<=://)([^/@:\s]*):(?!\d+/)[^\s\"]*@", r"\1:***@", text)
    return re.sub(r"(?<=http://|ttps://)[^/@:\s]+@", "***@", text)


def variable_of(name: str) -> str:
    """Return the environment variable by which a kernel is given a secret.

    Examples
    --------
    >>> variable_of("api_key")
    'LEPTON_SECRET_API_KEY'
    """
    return f"LEPTON_SECRET_{name.upper()}"


def secret_environment(values: Mapping[str, str]) -> dict[str, str]:
    """Return what a kernel's environment needs, so that `lk.secret(name)` finds the values."""
    return {variable_of(name): value for name, value in values.items()}


def _from_environment(name: str) -> str:
    if name not in os.environ:
        raise InputError(f"secret 'env:{name}': there is no environment variable {name!r}")
    return os.environ[name]


def _from_file(name: str, folder: Path) -> str:
    path = folder / Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"secret 'file:{name}': {str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InputError(f"secret 'file:{name}': {str(path)!r} is not text in UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")
