"""caps and doctor on a host with KVM; run --audit on the demo guest under each driver."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from libguest import drivers

from pyhv.cpu_options import DEFAULT_CPU

pytestmark = pytest.mark.kvm


def pyhv(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyhv", *arguments], capture_output=True, text=True, timeout=60
    )


def test_doctor_finds_nothing_wrong_where_guests_run() -> None:
    done = pyhv("doctor")
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("pyhv can run guests here.\n")
    assert "\nwrong" not in done.stdout


def test_caps_says_what_this_kvm_has() -> None:
    """The default flags are there; hv-evmcs is for Intel, and never in user space."""
    done = pyhv("caps", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["kvm"] == "yes"
    kernel = "kernel" in drivers()
    for name in ("hv-time", "hv-synic", "hv-tlbflush-ext", "hv-enforce-cpuid"):
        assert (found["flags"][name]["in_kernel"] == "yes") == kernel
        assert found["flags"][name]["in_user"] == "yes"
    assert found["flags"]["hv-evmcs"]["in_user"] != "yes"
    assert pyhv("caps", "--against", DEFAULT_CPU).returncode == 0
    assert pyhv("caps", "--against", "host,hv_ipi").returncode == 1


@pytest.mark.parametrize("hyperv", drivers())
def test_the_demo_is_audited(hyperv) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyhv", "run", "--audit", "--hyperv", hyperv, "--time-limit", "120"],
        capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = done.stderr.partition("audit:\n")[2]
    rows = {line.split()[0]: line for line in report.splitlines() if line.startswith("hv-")}
    assert re.match(r"hv-time +yes +yes ", rows["hv-time"]), report
    assert re.match(r"hv-synic +yes +yes ", rows["hv-synic"]), report
    assert re.match(r"hv-stimer +yes +yes ", rows["hv-stimer"]), report
    if hyperv == "user":
        assert re.search(r"[0-9,]+ reads", rows["hv-time"]), report
        assert rows["hv-vpindex"].endswith("1 read"), report
        assert "reads of HV_X64_MSR_TIME_REF_COUNT" not in report  # a handful, not a million
    else:
        assert "KVM serves it, no count" in rows["hv-time"]
        assert re.match(r"hv-vapic +yes +not at end ", rows["hv-vapic"])
    assert "hv-stimer is not used" not in report
