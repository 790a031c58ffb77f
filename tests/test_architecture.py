"""docs/architecture.md is what its script writes, and the script refuses imports that go up."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def architecture(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """docs/make_architecture.py."""
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("make_architecture")


def test_the_page_is_up_to_date(architecture: ModuleType) -> None:
    assert architecture.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("from qkv.layer import Attention", "kernel -> layer"),
        ("import qkv.layer", "kernel -> layer"),
        ("def f():\n    from qkv import layer", "kernel -> layer"),
        ("from qkv import extra", "in no row .*: extra"),
    ],
)
def test_an_import_that_goes_up_is_refused(
    architecture: ModuleType, tmp_path: Path, statement: str, message: str
) -> None:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/rfa.py").write_text(statement)
    (tmp_path / "layer.py").write_text("from qkv.kernel.rfa import RFA")
    if "extra" in statement:
        (tmp_path / "extra.py").touch()
    with pytest.raises(architecture.UpwardImport, match=message):
        architecture.row_edges(architecture.read_layers(), architecture.read_imports(tmp_path))
