"""Writes docs/flags/, a page per flag, from the tables: ``python tools/print_flag_pages.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pyhv.hyperv.flags import ROWS, Flag
from pyhv.lookup.explain import flag_facts, since

FOLDER = Path(__file__).parents[1] / "docs" / "flags"
ROWS_SHOWN = (
    ("Enforced by QEMU", "requires"),
    ("Needed by the TLFS", "requires_tlfs"),
    ("Goes well with", "recommended"),
    ("Migration", "migration"),
    ("APICv, AVIC", "apicv"),
    ("Nesting", "nesting"),
    ("Linux guests", "linux_guest"),
    ("Windows guests", "windows_guest"),
)


def listed(title: str, lines: list[str]) -> list[str]:
    """Return a section with a list, nothing for an empty one."""
    return ["", f"## {title}", "", *(f"- {line}" for line in lines)] if lines else []


def linked(value: object) -> str:
    """Return a text as it is, flags as links to their pages."""
    if isinstance(value, list):
        return ", ".join(f"[{name}]({name}.md)" for name in value) or "nothing"
    return str(value)


def page(row: Flag) -> str:
    """Return the page of one flag."""
    known = flag_facts(row)
    default = {False: "off"}.get(row.default, row.default) if row.kind == "bool" else row.default
    lines = [f"# {row.name}", "", row.meaning, ""]
    lines += [f"`-cpu host,{row.name}`, kind {row.kind}, default {default}. "
              f"Since {since(known)}."]  # fmt: skip
    if row.aliases:
        lines += ["", f"Also written {', '.join(row.aliases)}."]
    if known["libvirt_element"]:
        lines += ["", f"libvirt: `{known['libvirt_element']}` below `<domain>`."]
    lines += listed("CPUID bits", known["cpuid"])  # type: ignore[arg-type]
    lines += listed("MSRs", known["msrs"])  # type: ignore[arg-type]
    lines += listed("Hypercalls", known["hypercalls"])  # type: ignore[arg-type]
    lines += ["", "## What it needs and does", "", "| | |", "|---|---|"]
    lines += [f"| {title} | {linked(known[key])} |" for title, key in ROWS_SHOWN]
    refusals = [f"{driver}: refused: {known[f'refused_{driver}']}"
                for driver in ("in_kernel", "in_user") if known[f"refused_{driver}"]]  # fmt: skip
    lines += listed("pyhv's drivers", refusals)
    if row.notes:
        lines += ["", row.notes]
    return "\n".join([*lines, "", "Printed by `tools/print_flag_pages.py` from the tables.", ""])


def pages() -> dict[str, str]:
    """Return file name -> text, the index too."""
    found = {f"{row.name}.md": page(row) for row in ROWS}
    index = ["# A page per Hyper-V flag", "", "`pyhv explain FLAG` shows the same.", ""]
    index += [f"- [{row.name}]({row.name}.md): {row.meaning}" for row in ROWS]
    return found | {"README.md": "\n".join([*index, ""])}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
