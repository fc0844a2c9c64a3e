"""The pytest plugin without KVM: whole pytest runs with a Machine that is none."""

from __future__ import annotations

import fcntl
import os
import pathlib
import re
import threading
import time
import xml.etree.ElementTree as ElementTree

import pytest
from fake_plugin import FAKE

from pyhv.pytest_plugin import Budget

pytest_plugins = ["pytester"]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run pytest on *tests*; ``why``: why KVM is not there."""

    def go(tests: str, *options: str, why: str = "") -> pytest.RunResult:
        pytester.makeconftest(FAKE.replace("WHY", repr(why)))
        pytester.makepyfile(tests)
        return pytester.runpytest_subprocess("-p", "pyhv.pytest_plugin", *options)

    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]))
    return go


def test_vm_and_marker(run, pytester: pytest.Pytester) -> None:
    """The test's marker beats its class's; the machine is closed; the driver is the option's."""
    found = run(
        """
        import pytest

        @pytest.mark.pyhv(memory="64M", smp=2)
        class TestIt:
            def test_class(self, vm):
                assert (vm.config.memory_bytes >> 20, vm.config.smp.cpus) == (64, 2)

            @pytest.mark.pyhv(memory="32M")
            def test_own(self, vm):
                assert (vm.config.memory_bytes >> 20, vm.config.smp.cpus) == (32, 2)
                assert vm.config.hyperv == "user"

        def test_factory(vm_factory):
            one, two = vm_factory(memory="16M"), vm_factory(memory="8M", hyperv="kernel")
            assert two.config.hyperv == "kernel"
        """,
        "--pyhv-hyperv=user", "--strict-markers",
    )  # fmt: skip
    found.assert_outcomes(passed=3)
    assert (pytester.path / "closed").read_text().split() == ["64", "32", "16", "8"]


FAILS = """
import pytest

@pytest.mark.pyhv(smp=2)
def test_it(vm):
    vm.start()
    assert False, "as it must"
"""


def kept(pytester: pytest.Pytester) -> dict[str, str]:
    """Return the files that the one machine of the one failed test left."""
    (place,) = (pytester.path / "kept").iterdir()
    assert os.access(place / "command.sh", os.X_OK)
    return {path.name: path.read_text() for path in place.iterdir()}


def test_what_a_failure_leaves(run, pytester: pytest.Pytester) -> None:
    """In the report, in files, and as JUnit properties; guest text cannot reach the terminal."""
    found = run(FAILS, "--pyhv-artifacts=kept", "--junitxml=j.xml", "-o", "junit_family=xunit1")
    found.assert_outcomes(failed=1)
    text = found.stdout.str()
    for line in (
        "machine 0", "command: pyhv run -m 262144K -smp cpus=2", "rip 0000000000001234",
        "out port 0x80, 1 bytes", "| hello from the guest", "it still ran when the test",
    ):  # fmt: skip
        assert line in text, text
    assert "\x1b[2J" not in text
    files = kept(pytester)
    assert files["console.log"].startswith("hello from the guest")
    assert "command: pyhv run" in files["report.txt"]
    assert files["command.sh"].startswith("#!/bin/sh\npyhv run -m 262144K")
    assert re.search(r"registers of vcpu 0:\n  rip 0+5678.*\nregisters of vcpu 1:\n  rip 0+5679",
                     files["registers.txt"])  # fmt: skip
    assert "trace.txt" not in files
    properties = {
        item.get("name"): item.get("value")
        for item in ElementTree.parse(pytester.path / "j.xml").iter("property")
    }
    assert properties["pyhv_stop"] == "quit"
    assert properties["pyhv_driver"] == "in_user"
    assert properties["pyhv_command"].startswith("pyhv run -m")


def test_the_end_of_a_trace_is_kept(run, pytester: pytest.Pytester) -> None:
    run(FAILS, "--pyhv-artifacts=kept", "--pyhv-trace=msr").assert_outcomes(failed=1)
    lines = kept(pytester)["trace.txt"].splitlines()
    assert len(lines) == 10000
    assert lines[-1] == "9999.000000 cpu0  msr(n=0x4e1f)"


def test_a_machine_that_a_fixture_boots(run, pytester: pytest.Pytester) -> None:
    """It failed before the test began; what it left is there all the same."""
    found = run(
        """
        import pytest

        @pytest.fixture
        def booted(vm_factory):
            machine = vm_factory(memory="8M")
            machine.start()
            raise RuntimeError("no login")

        def test_it(booted):
            pass
        """,
        "--pyhv-artifacts=kept",
    )
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines(["*machine 0*", "command: pyhv run -m 8192K*"])
    assert kept(pytester)["console.log"]


def test_a_machine_that_does_not_stop(run, pytester: pytest.Pytester) -> None:
    found = run(
        """
        import pyhv.pytest_plugin

        def hang(timeout):
            raise TimeoutError

        def test_it(vm):
            vm.start()
            vm.wait = hang
            assert 0
        """
    )
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(["*it was told to stop, and did not in 30 s*"])


def test_a_pass_leaves_nothing(run, pytester: pytest.Pytester) -> None:
    found = run("def test_it(vm):\n    vm.start()\n", "--pyhv-artifacts=kept")
    found.assert_outcomes(passed=1)
    assert not (pytester.path / "kept").exists()


def test_without_kvm(run) -> None:
    """A skip that says why; a failure under the switch."""
    why = "open /dev/kvm: no such device"
    found = run("def test_it(vm):\n    pass\n", "-rs", why=why)
    found.assert_outcomes(skipped=1)
    found.stdout.fnmatch_lines([f"*SKIPPED*{why}*"])
    found = run("def test_it(vm):\n    pass\n", "--pyhv-require-kvm", why=why)
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines([f"*KVM is required: {why}*"])


def test_budget(tmp_path: pathlib.Path) -> None:
    """Who comes too late waits; what a dead worker held is free; too much is refused at once."""
    budget = Budget(tmp_path / "b", 100)
    first, _second = budget.take(60, 1), budget.take(40, 1)
    with pytest.raises(TimeoutError, match="no 1 bytes of --pyhv-budget in 0.2 s"):
        budget.take(1, 0.2)
    with pytest.raises(ValueError, match="a machine of 101 bytes"):
        budget.take(101, 1)
    other = Budget(tmp_path / "b", 100)
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.append(other.take(50, 10)))
    thread.start()
    time.sleep(0.2)
    assert not taken
    fcntl.flock(first, fcntl.LOCK_UN)  # as the kernel does when its process dies
    thread.join(10)
    assert taken
    assert other._used() == 90


def test_budget_option(run) -> None:
    found = run("def test_it(vm):\n    pass\n", "--pyhv-budget=128M")
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines(["*a machine of 301989888 bytes; --pyhv-budget is 134217728*"])
    run("def test_it(vm):\n    pass\n", "--pyhv-budget=1G").assert_outcomes(passed=1)
