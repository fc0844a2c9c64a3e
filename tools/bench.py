#!/usr/bin/env python3
"""Measures pyhv beside QEMU 10 and a C loop, in instructions; prints docs/performance.md's table.

    tools/bench.py                      all rows; needs root, takes a quarter of an hour
    tools/bench.py --quick              the exit rows: two minutes
    tools/bench.py --only disk          one part
    PYHV_BENCH_ROOT=TREE tools/bench.py the pyhv of another tree, to compare

It starts the nested host by itself (tests/host/nested --icount), where CPU time
counts instructions, so a loaded machine makes it slow but not wrong. The exit
status is 1 if a target was missed, 2 if something could not be measured.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from bench import measure, meter, table  # noqa: E402
from bench.machines import Setup  # noqa: E402

LIMIT_S = 7200


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options; ``parts`` is what to measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only the exit rows")
    parser.add_argument("--only", action="append", choices=list(measure.PARTS), metavar="PART",
                        help=f"{', '.join(measure.PARTS)}; may be repeated")  # fmt: skip
    parser.add_argument("--python", default="", metavar="FILE",
                        help="the interpreter for pyhv; default: the distribution's")  # fmt: skip
    parser.add_argument("--inside", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.parts = options.only or list(measure.QUICK if options.quick else measure.PARTS)
    return options


def collect(setup: Setup, parts: list[str]) -> tuple[list[table.Result], list[str]]:
    """Measure; return the rows that have values, and what went wrong."""
    values: dict[str, dict[str, float]] = {}
    failures = []
    for part in parts:
        start = time.monotonic()
        try:
            for row, column, value in measure.PARTS[part](setup):
                values.setdefault(row, {})[column] = value
                print(f"  {row} {column}: {table.number(value)}", file=sys.stderr, flush=True)
        except (meter.Failed, ValueError, OSError) as error:
            failures.append(f"{part}: {error}")
        print(f"  {part}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
    found = [table.Result(row, values[row.key]) for row in table.ROWS if row.key in values]
    return found, failures


def inside(file: str, parts: list[str]) -> int:
    """Measure in the nested host."""
    results, failures = collect(Setup(**json.loads(pathlib.Path(file).read_text())), parts)
    print(table.render(results), end="")
    for failure in failures:
        print(f"not measured: {failure}")
    if failures:
        return 2
    return 1 if any(result.verdict.startswith("missed") for result in results) else 0


def main(argv: list[str]) -> int:
    """Run the command line."""
    options = parse(argv)
    if options.inside:
        return inside(options.inside, options.parts)
    from bench import prepare

    with tempfile.TemporaryDirectory(prefix="pyhv-bench-") as folder:
        fields = prepare.prepare(pathlib.Path(folder), options.parts, options.python)
        file = pathlib.Path(folder) / "setup.json"
        file.write_text(json.dumps(fields))
        only = [word for part in options.parts for word in ("--only", part)]
        nested = [ROOT / "tests/host/nested", "--icount", "--timeout", str(LIMIT_S)]
        command = [fields["python"], "-I", "-S", __file__, "--inside", file, *only]
        return subprocess.run([*nested, *command], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
