"""Why /dev/kvm cannot be opened, in words that help: each errno, each kind of group and mode."""

from __future__ import annotations

import errno
import os

import pytest

from pyhv.errors import HostError
from pyhv.kvm.system import Kvm


@pytest.mark.parametrize(
    ("mode", "gid", "wanted"),
    [
        (0o660, 12345, "group 12345 (mode 660): sudo usermod -aG 12345 $USER"),
        (0o660, 0, "group root (mode 660): sudo chgrp kvm"),
        (0o600, 12345, "(mode 600): sudo chgrp kvm /dev/kvm; sudo chmod 660 /dev/kvm"),
    ],
)
def test_not_permitted(
    monkeypatch: pytest.MonkeyPatch, mode: int, gid: int, wanted: str
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    status = os.stat_result((mode, 0, 0, 1, 0, gid, 0, 0, 0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        patch.setattr(os, "stat", lambda _: status)
        with pytest.raises(HostError) as caught:
            Kvm()
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (errno.ENOENT, "no such device; load kvm_intel or kvm_amd"),
        (errno.ENXIO, "its driver is not"),
        (errno.ENODEV, "its driver is not"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_not_there(monkeypatch: pytest.MonkeyPatch, number: int, wanted: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(HostError) as caught:
            Kvm()
    assert wanted in str(caught.value)
