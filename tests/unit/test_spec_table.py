"""tools/spec.py --cycle: what is missed, and the table; tests/host/test_cycle.py measures."""

from __future__ import annotations

import copy
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools"))

from bench import cycle  # noqa: E402

FOUND = {row: dict.fromkeys(cycle.COLUMNS, 100.0) for row in cycle.ROWS}


def test_as_much_as_qemu_is_met() -> None:
    assert cycle.missed(FOUND) == []


@pytest.mark.parametrize("column", cycle.EMULATORS)
def test_more_than_qemu_is_missed(column: str) -> None:
    found = copy.deepcopy(FOUND)
    found["process"][column] = 99.0
    (text,) = cycle.missed(found)
    assert cycle.COLUMNS[column] in text


@pytest.mark.parametrize("column", cycle.COLUMNS)
def test_what_was_not_measured_is_said(column: str) -> None:
    found = copy.deepcopy(FOUND)
    for values in found.values():
        del values[column]
    assert f"{cycle.COLUMNS[column]}: not measured" in cycle.missed(found)


def test_the_table_has_every_row_and_column() -> None:
    lines = cycle.render(FOUND).splitlines()
    assert len(lines) == 2 + len(cycle.ROWS)
    assert all(title in lines[0] for title in cycle.COLUMNS.values())
    for (title, _), line in zip(cycle.ROWS.values(), lines[2:], strict=True):
        assert title in line
    assert all(line.count("|") == lines[0].count("|") for line in lines)
