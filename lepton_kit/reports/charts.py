"""Charts on pages: a reader looks closer at a figure, and the site's own script draws it with hover and zoom.

Only a chart that the kit's own specification can show is drawn: it is made anew from the points that a notebook holds,
so nothing else that somebody wrote there reaches the script. The picture stays for paper, and where nothing runs.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from lepton_kit.files import write_atomically
from lepton_kit.notebook import CHART
from lepton_kit.reports.markup import PLAIN, as_text
from lepton_kit.runs.charts import Chart

CLOSER = '<button type="button" class="closer"'
SCRIPT, VEGA = "charts.js", "vega.js"
SCRIPT_HTML = f'<script src="../../{SCRIPT}" defer></script>'
VEGA_LITE_VERSION = "5.20"


def chart_html(data: Mapping[str, Any]) -> str:
    """Return the button by which a reader looks closer at a figure, by the kinds of its output; nothing without one."""
    chart = Chart.of_vega_lite(data[CHART]) if CHART in data else None
    if chart is None:
        return ""
    held = as_text(json.dumps(chart.vega_lite(width="container"), ensure_ascii=False, separators=(",", ":")))
    return f'{CLOSER} hidden data-chart="{held}">Look closer</button>'


def add_scripts(site: Path) -> None:
    """Put what draws charts into a site."""
    shutil.copyfile(PLAIN / SCRIPT, site / SCRIPT)
    version = importlib.metadata.version("vl-convert-python")
    kept = user_cache_path("lepton-kit") / f"vega-{version}.js"
    if kept.is_file():
        shutil.copyfile(kept, site / VEGA)
        return
    from vl_convert import javascript_bundle  # 33 MB, which only the first site with a chart needs

    made = javascript_bundle(None, VEGA_LITE_VERSION)  # type: ignore[arg-type]  # none is all of it
    # In a function of its own: as a module, a browser would not load it from a folder.
    (site / VEGA).write_text(f"(() => {{\n{made}\n}})();\n", encoding="utf-8")
    with contextlib.suppress(OSError):  # it takes seconds to make; who has no such folder waits for it each time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, (site / VEGA).read_bytes())
