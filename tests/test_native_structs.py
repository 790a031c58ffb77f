"""The ctypes structures of the native engine are the C++ structs, and a library with others is declined."""

import ctypes
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from qkv import doctor
from qkv.kernel import native
from qkv.kernel.backends import describe_backends
from qkv.kernel.native import library, structures

FOLDER = Path(library.__file__).parent
HEADERS = {
    "StridedTensor": "call.h",
    "Call": "call.h",
    "SmallLinear": "call.h",
    "LayerStep": "call.h",
    "AdditiveScore": "additive.h",
}
PLAIN_TYPES = {"int64_t": ctypes.c_int64, "int32_t": ctypes.c_int32, "float": ctypes.c_float}
needs_library = pytest.mark.skipif(not native.is_available(), reason="the native engine is not built here")


def read_header(name: str) -> list[tuple[str, object]]:
    """The fields of a struct as its header declares them, with their ctypes types."""
    text = re.sub(r"//.*", "", (FOLDER / HEADERS[name]).read_text())
    block = re.search(rf"struct {name} \{{(.*?)\}};", text, re.DOTALL)
    assert block is not None, f"{HEADERS[name]} declares no struct {name}"
    fields: list[tuple[str, object]] = []
    for declaration in filter(str.strip, block.group(1).split(";")):
        type_name, names = declaration.replace("const ", "").strip().split(maxsplit=1)
        for field in names.split(","):
            is_pointer = "*" in type_name or "*" in field
            plain = PLAIN_TYPES.get(type_name) or getattr(structures, type_name.rstrip("*"), None)
            fields.append((field.strip(" *"), ctypes.c_void_p if is_pointer else plain))
    return fields


def test_every_structure_has_a_header() -> None:
    assert {structure.__name__ for structure in structures.STRUCTURES} == set(HEADERS)


@pytest.mark.parametrize("name", HEADERS)
def test_a_structure_has_the_types_of_its_header(name: str) -> None:
    """The layout that is checked on loading knows offsets and sizes, but not types."""
    assert list(getattr(structures, name)._fields_) == read_header(name)


def replace_structure(name: str, fields: Sequence[Any]) -> list[type[ctypes.Structure]]:
    """The structures of the package, one of them with other fields."""
    changed = type(name, (ctypes.Structure,), {"_fields_": fields})
    return [changed if one.__name__ == name else one for one in structures.STRUCTURES]


def swap_fields() -> list[type[ctypes.Structure]]:
    """Two integers of SmallLinear in the other order: every size is the same."""
    fields = list(structures.SmallLinear._fields_)
    fields[0], fields[1] = fields[1], fields[0]
    return replace_structure("SmallLinear", fields)


def drop_field() -> list[type[ctypes.Structure]]:
    return replace_structure("AdditiveScore", list(structures.AdditiveScore._fields_[:-1]))


def narrow_field() -> list[type[ctypes.Structure]]:
    """A shorter field whose padding keeps all offsets and the size of the structure."""
    fields = [
        (name, ctypes.c_int32 if name == "threads" else kind)
        for name, kind, *_ in structures.SmallLinear._fields_
    ]
    return replace_structure("SmallLinear", fields)


WRONG_STRUCTURES = [
    (
        swap_fields,
        "SmallLinear.out_features is 8 bytes at offset 8 in the library and 8 bytes at offset 0 in",
    ),
    (narrow_field, "SmallLinear.threads is 8 bytes at offset 24 in the library and 4 bytes at offset 24 in"),
    (drop_field, "struct AdditiveScore is "),
]


@needs_library
@pytest.mark.parametrize(
    ("change", "mismatch"), WRONG_STRUCTURES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_library_with_other_structures_is_declined(
    change: Callable[[], list[Any]], mismatch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "STRUCTURES", change())
    loaded, reason = library.load_library(library.FILE)
    assert loaded is None
    assert reason.startswith(f"it was built from other sources ({mismatch}")
    monkeypatch.setattr(library, "LIBRARY", None)
    monkeypatch.setattr(library, "IS_LOADED", False)
    monkeypatch.setattr(library, "UNAVAILABLE", reason)
    assert native.explain_why_unsupported(torch.zeros(1)) == reason
    assert describe_backends(True, 100).startswith(f"; the native CPU backend is not used: {reason}")
    (line,) = (line for line in doctor.report_lines(doctor.examine()) if line.startswith("native"))
    assert f"not used, because {reason}" in line


@needs_library
def test_the_right_structures_are_accepted() -> None:
    loaded, reason = library.load_library(library.FILE)
    assert loaded is not None
    assert not reason


def test_the_operator_keeps_the_argument_names_of_exported_programs() -> None:
    names = [argument.name for argument in torch.ops.qkv.linear_attention.default._schema.arguments]
    assert names[3:] == [
        *("matrix", "keep", "written", "decay", "sums", "plain", "scale"),
        *("map", "unit", "causal", "square", "floor"),
    ]


def test_a_missing_library_says_so(tmp_path: Path) -> None:
    assert library.load_library(tmp_path / "missing.so") == (None, "it is not built here")


def test_a_file_that_is_no_library_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_text("not a library")
    assert library.load_library(tmp_path / "broken.so")[1].startswith("it cannot be loaded (")
