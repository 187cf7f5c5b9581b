"""`benchmarks/RESULTS.md`: one section per benchmark."""

from __future__ import annotations

from pathlib import Path

PATH = Path(__file__).with_name("RESULTS.md")


def write_section(text: str, path: Path = PATH) -> None:
    """Put a section, which begins with its heading (`## …`), into the results in place of the earlier one."""
    heading, _, _ = text.removeprefix("## ").partition("\n")
    head, *sections = path.read_text(encoding="utf-8").rstrip().split("\n## ")
    kept = {section.partition("\n")[0]: section.rstrip() for section in sections}
    kept[heading] = text.removeprefix("## ").rstrip()
    path.write_text("\n\n## ".join([head.rstrip(), *kept.values()]) + "\n", encoding="utf-8")
