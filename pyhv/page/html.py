"""Small pieces of HTML: every text of a trace goes through :func:`esc`."""

from __future__ import annotations

from html import escape as esc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["cells", "duration", "esc", "number", "seconds", "section", "table"]


def number(value: int) -> str:
    """Return 12345 as 12,345."""
    return f"{value:,}"


def seconds(time_ns: int) -> str:
    """Return a time since the start."""
    return f"{time_ns / 1e9:.6f}"


def duration(ns: float) -> str:
    """Return a duration with the unit that suits it."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}" if ns < 1000 * size else f"{ns / size:.0f} {unit}"
    return f"{ns:.0f} ns"


def cells(row: Iterable[object], numeric: frozenset[int]) -> str:
    """Return a row; a cell that is a tuple is (shown HTML, what sorts)."""
    found = []
    for at, cell in enumerate(row):
        kind = ' class="n"' if at in numeric else ""
        shown, key = cell if isinstance(cell, tuple) else (esc(str(cell)), None)
        sort = f' data-s="{esc(str(key))}"' if key is not None else ""
        found.append(f"<td{kind}{sort}>{shown}</td>")
    return f"<tr>{''.join(found)}</tr>"


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Iterable[object]],
    numeric: Iterable[int] = (), *, sort: bool = True,
) -> str:  # fmt: skip
    """Return a table that scrolls by itself, with heads that sort it."""
    right = frozenset(numeric)
    head = "".join(
        f'<th scope="col"{" class=n" if at in right else ""}>'
        + (f'<button type="button" class="sort">{esc(text)}</button>' if sort else esc(text))
        + "</th>"
        for at, text in enumerate(heads)
    )
    body = "".join(cells(row, right) for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}"><table>'
        f'<caption class="hidden">{esc(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def section(name: str, title: str, note: str, body: str) -> str:
    """Return a section; *note* is HTML, one line about what is seen."""
    return (
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{esc(title)}</h2>'
        f'<p class="note">{note}</p>{body}</section>'
    )
