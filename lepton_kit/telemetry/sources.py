"""Where samples come from: the embedded store's folder, or a Prometheus server's address."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lepton_kit.errors import InputError
from lepton_kit.telemetry.prometheus import Prometheus
from lepton_kit.telemetry.selectors import Source
from lepton_kit.telemetry.store import Store


def open_source(where: str | Path, root: Path = Path(), timeout: float = 30.0) -> Source:
    """Return the source at a Prometheus server's address (http, https), or in the folder of an embedded store.

    A folder is relative to `root`; an answer of a server may take `timeout` seconds.

    Raises InputError when it is neither.
    """
    if isinstance(where, str) and where.startswith(("http://", "https://")):
        return Prometheus(where, timeout)
    folder = root / where
    if not folder.is_dir():
        raise InputError(
            f"source of telemetry {str(where)!r}: neither a folder of a telemetry store, which `lepton watch` writes, "
            "nor the address of a Prometheus server (http://…)"
        )
    return Store(folder)


def warnings_of(source: Source | None) -> Mapping[str, tuple[str, ...]]:
    """Return what a server warned of in its last answers, by selector; nothing of a source that is none."""
    return dict(source.warnings) if isinstance(source, Prometheus) else {}
