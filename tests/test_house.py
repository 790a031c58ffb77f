"""The house rules that no linter knows."""

import ast
from pathlib import Path

import pytest

import qkv

SOURCE = Path(str(qkv.__file__)).parent
FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_files_stay_short_and_say_what_they_are(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 300
    assert "from __future__ import annotations" not in text
    assert file.stem not in ("utils", "helpers", "common", "misc")
    assert not text or text.startswith('"""')


def test_pytest_collects_nothing_that_a_test_imports() -> None:
    """pytest takes every function `test…` and class `Test…` in a test file for a test, imported ones too."""
    definitions = (node for file in FILES for node in ast.walk(ast.parse(file.read_text())))
    names = [node.name for node in definitions if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert not [name for name in names if name.startswith(("test", "Test"))]


def test_the_files_were_found() -> None:
    assert len(FILES) > 15
