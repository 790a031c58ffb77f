"""Docstrings: what every public name says of its arguments, and that the examples in them run."""

import ast
import doctest
import importlib
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import qkv

SOURCE = Path(str(qkv.__file__)).parent
MODULES = sorted(
    ".".join(("qkv", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    for file in SOURCE.rglob("*.py")
    if ">>>" in file.read_text()
)
HEADING = re.compile(r"^( *)(Args|Returns|Raises|References|Example|Attributes|Yields):$", re.M)
REFERENCE = re.compile(r"Args and errors are those of `\w+`\.")  # for a method with the signature of another
# Parts state their source in `paper` as well; these names have none: they implement no published mechanism.
UNPUBLISHED = {"Attended", "QKVError", "capture", "debug_nan", "fit", "load"}


def sections(docstring: str) -> dict[str, str]:
    """The Google-style sections of a docstring: heading -> text."""
    pieces = HEADING.split(inspect.cleandoc(docstring))
    return {pieces[i + 1]: pieces[i + 2] for i in range(1, len(pieces) - 2, 3)}


def documented(args: str) -> set[str]:
    """The names that an `Args:` block explains, one per line of the indentation of the first."""
    lines = [line for line in args.splitlines() if line.strip()]
    depth = len(lines[0]) - len(lines[0].lstrip())
    entries = (line for line in lines if len(line) - len(line.lstrip()) == depth)
    return {entry.strip().partition(":")[0].lstrip("*") for entry in entries}


def parameters(function: Callable[..., Any]) -> set[str]:
    if inspect.isclass(function) and issubclass(function, Exception):
        return set()
    return {name for name in inspect.signature(function).parameters if name not in ("self", "cls", "_")}


def returns_something(function: Callable[..., Any]) -> bool:
    return inspect.signature(function).return_annotation not in (None, "None", inspect.Signature.empty)


def public_methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, value in vars(kind).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if (
            not name.startswith("_")
            and inspect.isfunction(function)
            and function.__module__.startswith("qkv")
        ):
            yield name, function


def problems_of(name: str, function: Callable[..., Any], docstring: str) -> Iterator[str]:
    parts, names = sections(docstring), parameters(function)
    if REFERENCE.search(docstring):
        return
    if names and "Args" not in parts:
        yield f"{name} has no Args: block"
    missing = names - documented(parts["Args"]) if names and "Args" in parts else set()
    if missing:
        yield f"{name} does not document {sorted(missing)}"


def problems(name: str, value: Any) -> Iterator[str]:
    docstring = value.__doc__ or ""
    yield from problems_of(name, value, docstring)
    found = sections(docstring)
    if inspect.isfunction(value) and returns_something(value) and "Returns" not in found:
        yield f"{name} has no Returns: block"
    if ">>> " not in docstring:
        yield f"{name} has no example"
    if name not in UNPUBLISHED and not re.search(r"\b(19|20)\d\d\b", docstring):
        yield f"{name} names no source"
    if inspect.isclass(value):
        for method, function in public_methods(value):
            yield from problems_of(f"{name}.{method}", function, function.__doc__ or "")


@pytest.mark.parametrize("name", qkv.__all__)
def test_public_names_document_arguments_results_source_and_an_example(name: str) -> None:
    assert list(problems(name, getattr(qkv, name))) == []


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tests = doctest.DocTestFinder().find(
        importlib.import_module(module), extraglobs={"qkv": qkv, "torch": torch}
    )
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    with torch.random.fork_rng(), warnings.catch_warnings():
        for test in tests:
            torch.manual_seed(0)
            runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_all_docstrings_with_examples_are_found() -> None:
    """doctest finds only what a module defines; an example outside a docstring would never run."""
    shown = sum(
        (ast.get_docstring(node) or "").count(">>> ")
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    )
    run = sum(
        len(test.examples)
        for module in MODULES
        for test in doctest.DocTestFinder().find(importlib.import_module(module))
    )
    assert run == shown > 20
