"""Writes docs/architecture.md from the code; with --check, only reports whether it is stale.

Fails if an import goes up or sideways between the layers that pyproject.toml declares.
"""

import argparse
import ast
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
PAGE = HERE / "architecture.md"
PACKAGE = "qkv"
FACADE = ("__init__", "__main__")  # the public names and `python -m qkv`: above every layer

INTRO = """\
# Architecture

<!-- Written by `python docs/make_architecture.py`; change the code or that script, not this page. -->

This page shows which folder imports which, what each folder is, and where to add code.

The axes of attention are folders, and the choices on an axis are files. Imports go down only: a module may
import from the rows below its own, never from its neighbours in the row. `lint-imports` checks this, and the
script that writes this page fails on an import that goes up.

Each box is a row of layers. An arrow means that a module of one row imports a module of the other; arrows
that follow from others are left out.
"""

# What a contributor adds to a folder.
ADDITIONS = {
    "cli": "a command: one file, registered in `app.py`",
    "cost": "the training step of a new kind of model, in `workload.py`",
    "bench": "a measurement of specs: one file; benchmarks against other libraries go to `benchmarks/`",
    "task": "a task: one folder, and one entry in `registry.py`",
    "data": "a text format or a way to batch; a generated corpus in a folder of its own",
    "capturing": "what a call of attention computes and a capture should keep",
    "train": "code that every training needs; code for one task belongs in `task`",
    "decode": "a search that any model with steps can use",
    "trace": "a reader of another version of the file",
    "view": "a picture or page of a trace",
    "model": "a model, or a block that several models share",
    "testing": "a contract: one function and one line in `CONTRACTS`",
    "kernel": "a feature map: one file and one line in `KERNELS`; faster backends in `native` and `triton`",
    "score": "a score: one file and one line in `SCORES`",
    "scope": "a scope: one file and one line in `SCOPES`",
    "select": "a selection: one file and one line in `SELECTS`",
}


class UpwardImport(Exception):
    """An import that no layer allows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page or check it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    check, text = parser.parse_args(arguments).check, page()
    if not check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE} is stale: run python docs/make_architecture.py")
        return 1
    return 0


def page(source: Path = ROOT / "src" / PACKAGE) -> str:
    """The text of docs/architecture.md.

    Args:
        source: the package's folder.

    Raises:
        UpwardImport: if an import goes up or sideways.
    """
    rows = read_layers()
    edges = row_edges(rows, read_imports(source))
    return (
        "\n".join(
            [INTRO, *_draw_graph(rows, edges), *_list_folders(rows, source), *_list_files(rows, source)]
        )
        + "\n"
    )


def read_layers() -> list[list[str]]:
    """The rows of layers in pyproject.toml from top to bottom, each a list of folders and files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (c["layers"] for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [[name.strip().removeprefix(f"{PACKAGE}.") for name in row.split("|")] for row in layers]


def read_imports(source: Path) -> dict[str, set[str]]:
    """Folder or file of the package -> the folders and files that its modules import."""
    imports: dict[str, set[str]] = {}
    for path in sorted(source.rglob("*.py")):
        module = path.relative_to(source).with_suffix("").parts
        if module[0] not in FACADE:
            imported = _find_imports(ast.parse(path.read_text(encoding="utf-8")), source)
            imports.setdefault(module[0], set()).update(imported - {module[0]})
    return imports


def row_edges(rows: list[list[str]], imports: dict[str, set[str]]) -> set[tuple[int, int]]:
    """The pairs (row, row below) of which the first imports the second.

    Every arrow goes down, so there is no circle.

    Args:
        rows: as `read_layers` returns them.
        imports: as `read_imports` returns them.

    Raises:
        UpwardImport: for a module in no row, and for an import that does not go down.
    """
    row_of = {name: number for number, row in enumerate(rows) for name in row}
    if unplaced := (imports.keys() | set(chain(*imports.values()))) - row_of.keys():
        raise UpwardImport(f"in no row of pyproject.toml's layers: {', '.join(sorted(unplaced))}")
    pairs = {(name, target) for name, targets in imports.items() for target in targets}
    if forbidden := sorted(f"{a} -> {b}" for a, b in pairs if row_of[a] >= row_of[b]):
        raise UpwardImport(f"imports that do not go down: {', '.join(forbidden)}")
    return {(row_of[a], row_of[b]) for a, b in pairs}


def _find_imports(tree: ast.Module, source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            names.update(f"{PACKAGE}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    parts = (name.split(".") for name in names)
    modules = {path[1] for path in parts if path[0] == PACKAGE and len(path) > 1}
    return {name for name in modules if (source / name).is_dir() or (source / f"{name}.py").exists()}


def _remove_implied(edges: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The edges that do not follow from longer paths."""
    below: dict[int, set[int]] = {}
    for start in sorted({a for a, _ in edges}, reverse=True):
        targets = {b for a, b in edges if a == start}
        below[start] = targets.union(*(below.get(b, set()) for b in targets))
    longer = {(a, c) for a, b in edges for c in below.get(b, set())}
    return edges - longer


def _draw_graph(rows: list[list[str]], edges: set[tuple[int, int]]) -> Iterator[str]:
    yield "```mermaid\nflowchart TD"
    for number, row in enumerate(rows):
        yield f'    row{number}["{" · ".join(row)}"]'
    yield from (f"    row{a} --> row{b}" for a, b in sorted(_remove_implied(edges)))
    yield "```\n"


def _list_folders(rows: list[list[str]], source: Path) -> Iterator[str]:
    yield "## Folders\n"
    yield "| folder | what it is | may import | what to add here |"
    yield "|---|---|---|---|"
    for number, row in enumerate(rows):
        for name in _folders_in([row], source):
            below = ", ".join(f"`{other}`" for other in _folders_in(rows[number + 1 :], source))
            allowed = f"{below}, and files below" if below else "files below"
            about = _read_summary(source / name / "__init__.py")
            yield f"| `{name}/` | {about} | {allowed} | {ADDITIONS[name]} |"
    yield ""


def _list_files(rows: list[list[str]], source: Path) -> Iterator[str]:
    yield "## Files beside the folders\n"
    yield "| file | what it is |"
    yield "|---|---|"
    for name in (name for row in rows for name in row if not (source / name).is_dir()):
        yield f"| `{name}.py` | {_read_summary(source / f'{name}.py')} |"


def _folders_in(rows: Iterable[list[str]], source: Path) -> list[str]:
    return [name for row in rows for name in row if (source / name).is_dir()]


def _read_summary(path: Path) -> str:
    """The first paragraph of a file's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


if __name__ == "__main__":
    raise SystemExit(main())
