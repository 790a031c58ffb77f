"""What `import qkv` promises."""

import importlib
import subprocess
import sys

import pytest

import qkv
from qkv import rules


def test_all_is_sorted_and_equals_what_can_be_imported() -> None:
    assert qkv.__all__ == sorted(set(qkv.__all__))
    for name in qkv.__all__:
        value = getattr(qkv, name)
        assert name not in qkv._HOMES or getattr(importlib.import_module(qkv._HOMES[name]), name) is value
        assert value.__doc__, f"{name} has no docstring"
    assert set(qkv.__all__) <= set(dir(qkv))


@pytest.mark.parametrize("name", sorted(qkv._MODULES))
def test_modules_need_no_import_of_their_own(name: str) -> None:
    program = f"import qkv; assert qkv.{name}.__name__ == 'qkv.{name}'"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_registered_part_is_public() -> None:
    parts = {kind.__name__ for registry in rules.AXES.values() for kind in registry.values()}
    assert parts <= set(qkv.__all__)


def test_type_checkers_see_the_same_names() -> None:
    with open(str(qkv.__file__)) as file:
        source = file.read()
    for axis in rules.AXES:
        assert f"    from qkv.{axis} import *  # noqa: F403\n" in source
    for name, home in qkv._HOMES.items():
        assert f"    from {home} import {name} as {name}\n" in source


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'qkv' has no attribute 'Atention'"):
        qkv.Atention  # noqa: B018


def test_import_is_light() -> None:
    program = "import sys, qkv; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_star_import_brings_every_name() -> None:
    names: dict = {}
    exec("from qkv import *", names)
    assert set(qkv.__all__) <= set(names)


def test_attention_and_attend_explain_the_same_arguments() -> None:
    sections = [
        str(function.__doc__).split("Args:\n")[1].split("Returns:")[0]
        for function in (qkv.attention, qkv.attend)
    ]
    assert sections[0] == sections[1]
