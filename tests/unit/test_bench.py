"""The benchmark's own arithmetic: what is a target, when is it met, what a guest's output means."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from bench import guests, machines, measure, meter, table  # noqa: E402

ROW = table.Row("x", "a thing", "kI", factor=1.1)
LIMITED = table.Row("y", "another", "kI", limit=1.5)


@pytest.mark.parametrize(
    ("row", "values", "target", "verdict"),
    [
        (ROW, {"pyhv": 5.4, "qemu": 5.0}, 5.5, "met"),
        (ROW, {"pyhv": 11.0, "qemu": 5.0}, 5.5, "missed, 2.00 x"),
        (ROW, {"pyhv": 11.0, "c": 5.0}, None, ""),
        (ROW, {"qemu": 5.0}, 5.5, ""),
        (LIMITED, {"pyhv": 1.5, "qemu": 9.0}, 1.5, "met"),
        (LIMITED, {"pyhv": 3.0}, 1.5, "missed, 2.00 x"),
        (table.Row("z", "exits", "exits", limit=0.0), {"pyhv": 1.0}, 0.0, "missed"),
        (table.Row("i", "for information", "kI"), {"pyhv": 9.0, "qemu": 1.0}, None, ""),
    ],
)
def test_verdict(
    row: table.Row, values: dict[str, float], target: float | None, verdict: str
) -> None:
    result = table.Result(row, values)
    assert result.target == (None if target is None else pytest.approx(target))
    assert result.verdict == verdict


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0, "0.00"), (5.947, "5.95"), (173.72, "173.7"), (3830.4, "3830")],
)
def test_number(value: float | None, text: str) -> None:
    assert table.number(value) == text


def test_the_table_is_markdown_with_aligned_columns() -> None:
    text = table.render(
        [
            table.Result(ROW, {"pyhv": 5.4, "qemu": 5.0, "c": 3.0}),
            table.Result(LIMITED, {"pyhv": 2.0}),
        ]
    )
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "unit", "pyhv", "QEMU 10", "C loop", "pyhv / QEMU", "target", ""]
    assert set(lines[1]) == {"|", "-", ":", " "}
    assert cells[2] == ["a thing", "kI", "5.40", "5.00", "3.00", "1.08", "5.50", "met"]
    assert cells[3] == ["another", "kI", "2.00", "", "", "", "1.50", "missed, 1.33 x"]


@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: row.key)
def test_a_row_has_one_target_at_most_and_a_known_unit(row: table.Row) -> None:
    assert not (row.factor and row.limit is not None)
    assert row.unit in ("kI", "MI", "MiB", "exits")
    assert table.BY_KEY[row.key] is row, "two rows with one key"


@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: row.key)
def test_every_row_is_measured(row: table.Row) -> None:
    """Each key is in the source of the measurements, whole or as a prefix with an operation."""
    source = (ROOT / "tools/bench/measure.py").read_text()
    operations = {*measure.ALL_OPERATIONS, *(f"kernel_{name}" for name in measure.ALL_OPERATIONS)}
    loads = {*measure.LOADS, *(f"{name}_exits" for name in measure.LOADS)}
    assert f'"{row.key}"' in source or row.key in operations | loads


def test_the_loads_have_their_rows() -> None:
    assert not set(measure.LOADS) - set(table.BY_KEY)
    assert all(f"{name} " in measure.disk_script() for name in measure.LOADS)


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_the_queue_reaches_every_block_and_says_what_failed(tmp_path: pathlib.Path) -> None:
    program, disk = guests.compile_c(tmp_path, "queue", "-static"), tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    subprocess.run([program, disk, "w", "4096", "32", "37", "256"], check=True)
    assert disk.read_bytes() == b"\x5a" * (1 << 20)
    subprocess.run([program, disk, "r", "131072", "1", "1", "20"], check=True)
    failed = subprocess.run(
        [program, tmp_path, "r", "4096", "1", "1", "1"], capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert failed.stderr


def line(*ticks: int) -> bytes:
    return b"".join(b"%08x " % tick for tick in ticks) + b"\n"


def test_parse_leaves_the_warm_up_out_and_takes_the_median() -> None:
    output = b"....." + b"\n" + line(99_000_000, 5000, 6000, 4000, 7000, 5500, 90_000)
    assert guests.parse(output, ("out",)) == {"out": 5.75}


def test_parse_needs_a_line_per_operation() -> None:
    with pytest.raises(ValueError, match="1 results of 2"):
        guests.parse(line(*range(7)), ("out", "in"))
    with pytest.raises(ValueError, match="0 results of 1"):
        guests.parse(line(*range(7))[:-3], ("out",))


def test_largest_mapping() -> None:
    smaps = "a\nSize: 64 kB\nRss: 60 kB\nb\nSize: 32768 kB\nRss: 12 kB\nc\nSize: 4 kB\nRss: 4 kB\n"
    assert meter.largest_mapping(smaps) == (32768, 12)


def test_a_process_reports_its_cpu_time(tmp_path: pathlib.Path) -> None:
    process = meter.Process([sys.executable, "-S", "-c", "sum(range(10**6))"], tmp_path / "out")
    assert 0 < process.finish(30) < 30


def test_a_process_with_the_wrong_status_says_what_it_printed(tmp_path: pathlib.Path) -> None:
    process = meter.Process(["sh", "-c", "echo oh dear >&2; exit 3"], tmp_path / "out", 33)
    with pytest.raises(meter.Failed, match="(?s)exit status 3.*oh dear"):
        process.finish(30)


def test_expect_gives_up_when_the_process_ends(tmp_path: pathlib.Path) -> None:
    process = meter.Process(["echo", "one"], tmp_path / "out")
    with pytest.raises(meter.Failed, match="two"):
        process.expect(b"two", timeout=30)


@pytest.mark.skipif(not (shutil.which("as") and shutil.which("ld")), reason="needs binutils")
@pytest.mark.parametrize("operations", [measure.ALL_OPERATIONS, measure.C_OPERATIONS])
def test_a_guest_is_a_boot_program_and_a_rom(
    tmp_path: pathlib.Path, operations: tuple[str, ...]
) -> None:
    program = guests.assemble(tmp_path, operations)
    data, rom = program.read_bytes(), program.with_suffix(".rom").read_bytes()
    assert data[510:512] == b"\x55\xaa"
    assert len(rom) == 1 << 16
    assert rom.startswith(data)
    assert rom[0xFFF0] == 0xEA, "a reset begins with a far jump"


def test_the_setup_wants_an_absolute_python() -> None:
    with pytest.raises(ValueError, match="not absolute"):
        machines.Setup(python="python3", qemu=[], files={})


def test_commands_are_lists_for_the_same_guest() -> None:
    setup = machines.Setup(python="/p", qemu=["/l", "/q"], files={"cloop": "/c", "end": "/e"})
    assert setup.c_loop("end") == ["/c", "/e"]
    assert setup.pyhv("-kernel", "/e")[-3:] == ["run", "-kernel", "/e"]
    assert setup.emulator("pc", "host", 32, "-bios", "/r")[:4] == ["/l", "/q", "-M", "pc"]
