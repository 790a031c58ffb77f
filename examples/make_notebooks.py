"""Writes the scripts beside this file as notebooks: python examples/make_notebooks.py [--check]

The docstring of a script becomes the first cell, and every `# %% text` begins a cell of text and one of code.
"""

import argparse
import ast
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NOTEBOOKS = FOLDER / "notebooks"
OMITTED = ("import sys", "figure.savefig(")  # a notebook shows the figure instead of saving it


def list_scripts() -> list[Path]:
    """The scripts that become notebooks."""
    return sorted(path for path in FOLDER.glob("*.py") if path != Path(__file__))


def convert(script: Path) -> str:
    """The notebook of a script, as JSON."""
    cells = list(_make_cells(script.read_text(encoding="utf-8")))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    notebook = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _make_cells(source: str) -> Iterator[dict[str, Any]]:
    title, _, text = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    yield _make_cell("markdown", f"# {title}\n{text}")
    imports, *sections = source.split('"""\n', 1)[-1].split("\n# %% ")
    yield _make_cell("code", imports)
    for section in sections:
        heading, _, code = section.partition("\n")
        yield _make_cell("markdown", heading)
        yield _make_cell("code", code)


def _make_cell(kind: str, text: str) -> dict[str, Any]:
    kept = "\n".join(line for line in text.split("\n") if not line.startswith(OMITTED))
    lines = kept.strip().split("\n")
    source = [f"{line}\n" for line in lines[:-1]] + lines[-1:]
    results: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": source, **results}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the notebooks or check them; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a notebook is stale")
    check = parser.parse_args(arguments).check
    NOTEBOOKS.mkdir(exist_ok=True)
    stale = []
    for script in list_scripts():
        path, text = NOTEBOOKS / f"{script.stem}.ipynb", convert(script)
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            stale.append(str(path))
        elif not check:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"stale: {', '.join(stale)}: run python examples/make_notebooks.py", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    raise SystemExit(main())
