"""The ctypes structures of the native engine have the fields of the C++ structs: name, order and type."""

import ctypes
import re
from pathlib import Path

import pytest

from qkv.kernel.native import library

FOLDER = Path(library.__file__).parent
HEADERS = {"Rows": "call.h", "Call": "call.h", "Few": "call.h", "Whole": "call.h", "Additive": "additive.h"}
PLAIN_TYPES = {"int64_t": ctypes.c_int64, "int32_t": ctypes.c_int32, "float": ctypes.c_float}


def fields_of_header(name: str) -> list[tuple[str, object]]:
    """The fields of a struct as its header declares them."""
    text = re.sub(r"//.*", "", (FOLDER / HEADERS[name]).read_text())
    block = re.search(rf"struct {name} \{{(.*?)\}};", text, re.DOTALL)
    assert block is not None, f"{HEADERS[name]} declares no struct {name}"
    fields: list[tuple[str, object]] = []
    for declaration in filter(str.strip, block.group(1).split(";")):
        kind, names = declaration.replace("const ", "").strip().split(maxsplit=1)
        for field in names.split(","):
            is_pointer = "*" in kind or "*" in field
            plain = PLAIN_TYPES.get(kind) or getattr(library, kind.rstrip("*"), None)
            fields.append((field.strip(" *"), ctypes.c_void_p if is_pointer else plain))
    return fields


@pytest.mark.parametrize("name", HEADERS)
def test_a_structure_has_the_fields_of_its_header(name: str) -> None:
    assert list(getattr(library, name)._fields_) == fields_of_header(name)
