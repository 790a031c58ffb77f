"""Pages of the documentation site that are not files in docs/: README, CHANGELOG, CONTRIBUTING, the examples
and the reference of the Python interface.  `mkdocs build` runs these hooks.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import qkv
from qkv import rules

ROOT = Path(__file__).resolve().parent.parent
ROOT_PAGES = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
# Page -> its title and the names that it documents.
REFERENCE = {
    "attention": (
        "Attention",
        [
            "Attention",
            "AttentionSpec",
            "attention",
            "attend",
            "Attended",
            "MultiheadAttention",
            "SelfAttention2d",
        ],
        ["qkv.masks", "qkv.testing", "qkv.debug_nan", "qkv.QKVError"],
    ),
    "runs": ("Training and runs", ["fit", "load"], []),
    "models": (
        "Models",
        [],
        [
            "qkv.model.seq2seq",
            "qkv.model.transformer",
            "qkv.model.language",
            "qkv.model.encoder",
            "qkv.model.classifier",
            "qkv.model.vision",
        ],
    ),
    "traces": (
        "Traces and their pictures",
        ["capture"],
        ["qkv.trace", "qkv.view.html_page", "qkv.view.heatmap", "qkv.view.shaded_text"],
    ),
    "costs": (
        "Costs and speed",
        [],
        [
            *("qkv.cost.estimate", "qkv.cost.workload", "qkv.cost.crossover"),
            *("qkv.bench.specs", "qkv.bench.timing", "qkv.bench.memory"),
        ],
    ),
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and the files of examples/."""
    for source, target in ROOT_PAGES.items():
        files.append(File.generated(config, target, content=_read(ROOT / source)))
    for path in [*ROOT.glob("examples/*.py"), *ROOT.glob("examples/notebooks/*.ipynb")]:
        target = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, target, content=path.read_text(encoding="utf-8")))
    for name, text in _write_reference():
        files.append(File.generated(config, f"api/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links of a page as the site has them: everything is in one folder."""
    markdown = re.sub(
        r"\]\(\.\./examples(/notebooks)?\)", "](lecture.md)", markdown
    )  # a site shows no folders
    return re.sub(r"\]\((?:\.\./|docs/)", "](", markdown)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _write_reference() -> Iterator[tuple[str, str]]:
    """The pages of the reference: name and text, in which mkdocstrings replaces the lines with `:::`."""
    for name, (title, names, modules) in REFERENCE.items():
        homes = [f"{getattr(qkv, each).__module__}.{each}" for each in names]
        lines = [f"::: {path}\n" for path in (*homes, *map(_resolve, modules))]
        yield name, "\n".join([f"# {title}\n", *lines])
    yield "parts", "\n".join(["# Parts\n", *_list_parts()])


def _resolve(path: str) -> str:
    """The module that defines a name which the package re-exports."""
    name = path.removeprefix("qkv.")
    defined = getattr(qkv, name, None)
    is_module = "." in name or not hasattr(defined, "__module__")
    return path if is_module else f"{defined.__module__}.{name}"


def _list_parts() -> Iterator[str]:
    for axis, parts in rules.AXES.items():
        yield f"## {axis}\n"
        for part in parts.values():
            yield f"::: {part.__module__}.{part.__name__}\n"
