"""Every boot test belongs to a part of tests/run, and every part has the tests that it names."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import pathlib

import pytest

TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def parts() -> dict[str, list[str]]:
    """Return title -> names of test files."""
    loader = importlib.machinery.SourceFileLoader("tests_run", str(TESTS / "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("tests_run", loader))
    loader.exec_module(module)
    return {part[0]: part[1].partition(" -k ")[0].split() for part in module.NESTED + module.ALL}


@pytest.mark.parametrize("path", sorted((TESTS / "boot").glob("test_*.py")), ids=lambda p: p.stem)
def test_every_boot_test_is_run(path: pathlib.Path, parts: dict[str, list[str]]) -> None:
    named = {name for names in parts.values() for name in names}
    assert path.stem.removeprefix("test_") in named


def test_every_name_is_a_test(parts: dict[str, list[str]]) -> None:
    for names in parts.values():
        for name in names:
            files = [TESTS / folder / f"test_{name}.py" for folder in ("guest", "boot")]
            assert sum(path.exists() for path in files) == 1, name


def test_a_part_has_tests_of_one_folder(parts: dict[str, list[str]]) -> None:
    """Each folder has a conftest of its own; one pytest can import only one of that name."""
    for title, names in parts.items():
        folders = {folder for name in names for folder in ("guest", "boot")
                   if (TESTS / folder / f"test_{name}.py").exists()}  # fmt: skip
        assert len(folders) == 1, title


def test_no_two_files_of_one_name() -> None:
    """Plain pytest imports test files by their bare names."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
