"""Shared by all tests: what a skip for want of KVM looks like, and how it becomes a failure."""

from __future__ import annotations

import os
import pathlib
import sys

import pytest
from browsing import browser
from fuzzing import fuzz, pytest_runtest_makereport

__all__ = ["browser", "fuzz", "pytest_runtest_makereport"]  # fixtures and a hook
ROOT = pathlib.Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def no_kvm() -> str:
    """Return why KVM tests cannot run here; empty if they can."""
    from pyhv.errors import HostError
    from pyhv.kvm.system import Kvm

    try:
        kvm = Kvm()
    except HostError as error:
        return str(error)
    kvm.close()
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip (or, under PYHV_REQUIRE_KVM=1, leave to fail) what needs /dev/kvm."""
    if os.environ.get("PYHV_REQUIRE_KVM") == "1":
        return
    needing = [item for item in items if item.get_closest_marker("kvm")]
    reason = no_kvm() if needing else ""
    if reason:
        for item in needing:
            item.add_marker(pytest.mark.skip(reason=reason))
