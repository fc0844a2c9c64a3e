"""doctor on made-up hosts: every finding, what to do about it, and the status."""

from __future__ import annotations

import json
import stat

import pytest

from pyhv import cli
from pyhv.errors import HostError
from pyhv.kvm import uapi
from pyhv.lookup import doctor

INTEL = "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx sse2\n"


class FakeKvm:
    """A KVM that opens, with all capabilities but *lacks*."""

    lacks: tuple[int, ...] = ()

    def __init__(self, path: str) -> None:
        self.path = path

    def check(self, capability: int) -> int:
        return int(capability not in self.lacks)

    def has_hyperv(self) -> bool:
        return bool(self.check(uapi.KVM_CAP_HYPERV))

    def has_msr_exits(self) -> bool:
        return bool(self.check(uapi.KVM_CAP_X86_MSR_FILTER))

    def close(self) -> None:
        pass


def refusing(text: str) -> type[FakeKvm]:
    class Refusing(FakeKvm):
        def __init__(self, path: str) -> None:
            raise HostError(text)

    return Refusing


def lacking(*capabilities: int) -> type[FakeKvm]:
    return type("Lacking", (FakeKvm,), {"lacks": capabilities})


@pytest.fixture
def host(tmp_path):
    """Return a function(files, make=..., **ids) -> Host with these files below its root."""

    def build(files: dict[str, str], make: object = FakeKvm, **ids: object) -> doctor.Host:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return doctor.Host(str(tmp_path), make=make, **ids)  # type: ignore[arg-type]

    return build


@pytest.mark.parametrize(
    ("files", "state", "text"),
    [
        ({"proc/cpuinfo": INTEL}, "ok", "virtualization (vmx)"),
        ({"proc/cpuinfo": "flags : svm"}, "ok", "virtualization (svm)"),
        ({"proc/cpuinfo": "flags : fpu"}, "wrong", "firmware's setup"),
        ({"proc/cpuinfo": "flags : hypervisor"}, "wrong", "nested=1"),
        ({"proc/cpuinfo": "flags : hypervisor", "dev/kvm": ""}, "mind", "it has /dev/kvm"),
        ({"proc/version": "Linux 5.15-microsoft-standard-WSL2"}, "wrong", ".wslconfig"),
    ],
)
def test_cpu(files, state, text, host) -> None:
    found = doctor.cpu(host(files))
    assert found.state == state
    assert text in found.found + found.todo


@pytest.mark.parametrize(
    ("files", "state", "text"),
    [
        ({"sys/module/kvm_amd/x": ""}, "ok", "are loaded"),
        ({"sys/module/kvm_pvm/x": ""}, "ok", "kvm_pvm"),
        ({"dev/kvm": ""}, "ok", "built into the kernel"),
        ({}, "wrong", "sudo modprobe kvm_intel"),
        ({"proc/cpuinfo": "flags : svm"}, "wrong", "sudo modprobe kvm_amd"),
        ({"etc/modprobe.d/x.conf": "blacklist kvm_intel\n"}, "wrong", "x.conf blacklists it"),
        ({"sys/module/vboxdrv/x": ""}, "wrong", "VirtualBox"),
    ],
)
def test_module(files, state, text, host) -> None:
    found = doctor.module(host(files))
    assert found.state == state
    assert text in found.found + found.todo


def test_container(host) -> None:
    assert doctor.container(host({})) is None
    found = doctor.container(host({"run/.containerenv": ""}))
    assert found is not None
    assert "--device /dev/kvm" in found.todo
    assert doctor.container(host({"run/.containerenv": "", "dev/kvm": ""})) is None


def test_node_missing_or_a_file(host) -> None:
    assert doctor.node(host({})).found == "/dev/kvm: No such file or directory"
    assert "no character device" in doctor.node(host({"dev/kvm": ""})).found


@pytest.mark.parametrize(
    ("mode", "uid", "groups", "state", "text"),
    [
        (0o660, 0, set(), "ok", "yours"),
        (0o660, 1000, {36}, "ok", "in the group"),
        (0o666, 1000, set(), "ok", "open to all"),
        (0o660, 1000, set(), "mind", "usermod -aG"),
        (0o600, 1000, {36}, "mind", "chmod g+rw"),
    ],
)
def test_permission(mode, uid, groups, state, text, host) -> None:
    found = doctor.permission(stat.S_IFCHR | mode, 0, 36, host({}, uid=uid, groups=groups))
    assert found.state == state
    assert text in found.found + found.todo


def test_a_node_of_roots_group(host) -> None:
    found = doctor.permission(stat.S_IFCHR | 0o660, 0, 0, host({}, uid=1000, groups=set()))
    assert found.state == "mind"
    assert "chgrp kvm" in found.todo


@pytest.mark.parametrize(
    ("make", "states", "text"),
    [
        (FakeKvm, ["ok", "ok"], "--hyperv kernel"),
        (lacking(uapi.KVM_CAP_HYPERV), ["ok", "mind"], "--hyperv user"),
        (lacking(uapi.KVM_CAP_HYPERV, uapi.KVM_CAP_X86_MSR_FILTER), ["ok", "wrong"], "Linux 5.10"),
        (lacking(uapi.KVM_CAP_SYNC_REGS), ["ok", "wrong", "ok"], "KVM lacks KVM_CAP_SYNC_REGS"),
        (refusing("open /dev/kvm: EBUSY"), ["wrong"], "another hypervisor"),
        (refusing("open /dev/kvm: permission denied; sudo usermod"), ["wrong"], "usermod"),
        (refusing("/dev/kvm: KVM API version 11, pyhv needs 12"), ["wrong"], "version 11"),
    ],
)
def test_opening(make, states, text, host) -> None:
    found = doctor.opened(host({}, make))
    assert [finding.state for finding in found] == states
    assert any(text in finding.found + finding.todo for finding in found)


@pytest.mark.parametrize("name", doctor.NEEDED)
def test_needed_capabilities_exist(name) -> None:
    assert isinstance(getattr(uapi, name), int)


def test_a_host_that_works_in_spite_of_what_it_looks_like(host) -> None:
    found = doctor.diagnose(host({"proc/cpuinfo": "flags : fpu"}))
    text, status = doctor.show(found, as_json=False)
    assert status == 0
    assert text.endswith("pyhv can run guests here.")
    assert found[0].state == "mind"


def test_a_host_without_kvm(host) -> None:
    broken = host({"proc/cpuinfo": INTEL}, refusing("open /dev/kvm: no such device; load kvm"))
    text, status = doctor.show(doctor.diagnose(broken), as_json=False)
    assert status == 1
    assert "-> sudo modprobe kvm_intel" in text
    assert max(map(len, text.splitlines())) <= 80
    rows = json.loads(doctor.show(doctor.diagnose(broken), as_json=True)[0])
    assert {"state", "found", "todo"} == set(rows[0])


def test_the_command_looks_at_this_host(capfd) -> None:
    status = cli.main(["doctor"])
    shown = capfd.readouterr().out
    assert (status == 0) == shown.endswith("pyhv can run guests here.\n")
