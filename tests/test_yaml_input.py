"""YAML that anyone may have written: what is read, what is refused, and how quickly."""

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from qkv.yaml_input import MAX_CHARACTERS, load_yaml, read_yaml_text

NAMES = "abcdefghijklmnopqrs"


def bomb(first: str, repeat: str) -> str:
    lines = [f"{NAMES[0]}: &{NAMES[0]} {first}"]
    for before, name in itertools.pairwise(NAMES):
        lines.append(f"{name}: &{name} {repeat.replace('*', '*' + before)}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: {b: [1, 0x10, -2.5, true, null, text]}", {"a": {"b": [1, 16, -2.5, True, None, "text"]}}),
        ("a: 9223372036854775807", {"a": 2**63 - 1}),
        ("a: !!str 12", {"a": "12"}),
        (
            "base: &base {x: 1, y: 2}\nother: {<<: *base, x: 3}",
            {"base": {"x": 1, "y": 2}, "other": {"x": 3, "y": 2}},
        ),
        ("a: &a [1]\nb: *a", {"a": [1], "b": [1]}),
        ('a: "\\ud800"', {"a": "\ud800"}),
    ],
)
def test_plain_data_is_read(text: str, value: Any) -> None:
    assert load_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' occurs twice .first in line 1."),
        ("x:\n  a: 1\n  a: 1", "line 3: the key 'a' occurs twice .first in line 2."),
        ("x: {a: 1, 'a': 2}", "the key 'a' occurs twice"),
        ("- {a: 1}\n- {b: 1, b: 2}", "line 2: the key 'b' occurs twice"),
        ("a: " + "9" * 20, "line 1: 9+ is an integer beyond 64 bits"),
        ("a: " + "9" * 5000, "is an integer beyond 64 bits"),
        ("a: -" + "9" * 5000, "is an integer beyond 64 bits"),
        ("a: 0x" + "f" * 20, "is an integer beyond 64 bits"),
        ("a: 0b" + "1" * 70, "is an integer beyond 64 bits"),
        ("a: " + ":".join(["59"] * 9000), "is an integer beyond 64 bits"),
        ("b: 1\na: !!int ''", "line 2: the tag '!!int' is not supported"),
        ("a: !!float ''", "the tag '!!float'"),
        ("a: !!bool x", "the tag '!!bool'"),
        ("a: !!timestamp x", "the tag '!!timestamp'"),
        ("a: !!python/object:os.system x", "the tag '!!python/object:os.system'"),
        ("a: !local x", "the tag '!local'"),
        ("!!set {a}", "the tag '!!set'"),
        ("a: 2026-99-99", "month must be in"),
        (bomb("[x, x]", "[*, *, *]"), "more than 20,000 values"),
        (bomb("{x: 1}", "{<<: [*, *]}"), "more than 20,000 values"),
        ("a: &a [*a]", "an alias is inside the value"),
        ("a: &a {<<: *a}", "an alias is inside the value"),
        ("[" + "1," * 45_000 + "]", "more than 20,000 values"),
        ("[" * 90_000, "more than 40 levels"),
        ("{a: " * 20_000, "more than 40 levels"),
        ("- " * 45_000, "more than 40 levels"),
        ("? " * 45_000, "more than 40 levels"),
        ("a: " + "x" * MAX_CHARACTERS, "more than 100,000 characters"),
        ('a: "\\UFFFFFFFF"', "."),
        ("a: \0", "special characters are not allowed"),
        ("? [a]\n: b", "unhashable key"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\nb: 2", "but found another document"),
        ("a: =", "."),
    ],
)
def test_the_rest_is_refused_quickly_in_one_line(text: str, problem: str) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=problem) as caught:
        load_yaml(text)
    assert time.process_time() - start < 3
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 350


def test_a_file_is_read_to_the_limit_and_no_further(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="it is not UTF-8 text"):
        read_yaml_text(tmp_path / "latin")
    with pytest.raises(ValueError, match="more than 100,000 characters"):
        read_yaml_text(Path("/dev/zero"))
