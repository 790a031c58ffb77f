"""The scripts in examples/: each runs, draws its picture, stays short, and has an up-to-date notebook."""

import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.stem != "make_notebooks")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_and_draws(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "picture.png")])
    runpy.run_path(str(script), run_name="__main__")
    sys.modules["matplotlib.pyplot"].close("all")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_can_be_read_at_a_glance(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    assert text.count("\n# %% ") >= 3


def test_the_notebooks_are_those_of_the_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert runpy.run_path(str(EXAMPLES / "make_notebooks.py"))["main"](["--check"]) == 0, capsys.readouterr()
    assert {path.stem for path in (EXAMPLES / "notebooks").glob("*.ipynb")} == {s.stem for s in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_has_the_code_of_its_script(script: Path) -> None:
    notebook = json.loads((EXAMPLES / "notebooks" / f"{script.stem}.ipynb").read_text(encoding="utf-8"))
    code = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    compile(code, script.stem, "exec")
    assert "savefig" not in code
    assert "import qkv" in code
    assert notebook["cells"][0]["source"][0].startswith("# ")
    assert all(cell["source"][0].strip() for cell in notebook["cells"])
