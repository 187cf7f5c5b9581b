"""The file of measured results, one section per benchmark."""

from __future__ import annotations

from pathlib import Path

PATH = Path(__file__).with_name("RESULTS.md")


def write_section(heading: str, text: str) -> None:
    """Put a section (Markdown, without its heading) into the results in place of the earlier one of that heading."""
    head, *sections = PATH.read_text(encoding="utf-8").split("\n## ")
    kept = [section for section in sections if section.partition("\n")[0] != heading]
    section = f"{heading}\n\n{text.strip()}\n"
    PATH.write_text(
        "\n## ".join([head.rstrip() + "\n", *(one.rstrip() + "\n" for one in kept), section]), encoding="utf-8"
    )
