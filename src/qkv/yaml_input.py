"""Reads YAML that anyone may have written: plain data only, in bounded time and memory."""

from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

MOST_CHARACTERS = 100_000
MOST_NODES = 20_000  # aliases count as often as they are used
DEEPEST = 40
LARGEST_INTEGER = 2**63 - 1
_PREFIX = "tag:yaml.org,2002:"
_STRING, _INTEGER = f"{_PREFIX}str", f"{_PREFIX}int"
_TOO_MANY = f"more than {MOST_NODES:,} values, counted as often as aliases repeat them"
_LONGEST_INTEGER = 100  # characters, in any base


def load_yaml(text: str) -> Any:
    """The data that a YAML text holds: mappings, lists, text, numbers, dates, booleans and null.

    Raises ValueError, in one line with the line number, for what is not YAML or has duplicate keys, tags,
    integers beyond 64 bits, too many levels, or more text or values than any recipe needs.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has more than {MOST_CHARACTERS:,} characters")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise ValueError(_described(error)) from None
    except yaml.YAMLError as error:
        raise ValueError(_one_line(str(error))) from None
    except (ValueError, OverflowError) as error:  # a date that is none; an escape beyond Unicode
        raise ValueError(_one_line(str(error))) from None


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file or pipe.  Raises OSError, or ValueError if it is too long or not UTF-8.

    One that never ends, such as a device, is read no further than the limit.
    """
    with path.open("rb") as file:
        content = file.read(4 * MOST_CHARACTERS + 1)
    if len(content) > 4 * MOST_CHARACTERS:
        raise ValueError(f"it has more than {MOST_CHARACTERS:,} characters")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what is harmful or ambiguous, where it stands in the text."""

    depth = count = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a node no deeper than the limit."""
        event: Any = self.peek_event()
        if self.depth == DEEPEST:
            raise _refused(event.start_mark, f"more than {DEEPEST} levels")
        if self.count == MOST_NODES:
            raise _refused(event.start_mark, _TOO_MANY)
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", _STRING):
            shown = tag.replace(_PREFIX, "!!")
            raise _refused(event.start_mark, f"the tag {shown!r} is not supported: leave it out")
        self.depth += 1
        self.count += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Compose a mapping whose keys differ."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                name = (key.tag, key.value)
                if name in lines:
                    first = f"the key {key.value!r} is there twice (first in line {lines[name] + 1})"
                    raise _refused(key.start_mark, f"{first}: leave one out")
                lines[name] = key.start_mark.line
        return node

    def construct_yaml_int(self, node: ScalarNode) -> int:
        """An integer of at most 64 bits."""
        small = len(node.value) <= _LONGEST_INTEGER
        value = super().construct_yaml_int(node) if small else LARGEST_INTEGER + 1
        if abs(value) > LARGEST_INTEGER:
            raise _refused(node.start_mark, f"{node.value[:30]} is an integer beyond 64 bits")
        return value


_Loader.add_constructor(_INTEGER, _Loader.construct_yaml_int)


def _check_size(root: Node) -> None:
    """Count every node as often as aliases repeat it."""
    sizes: dict[int, int | None] = {}

    def size_of(node: Node) -> int:
        if not isinstance(node, CollectionNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = None
            children = (
                child for item in node.value for child in (item if isinstance(item, tuple) else (item,))
            )
            sizes[id(node)] = 1 + sum(map(size_of, children))
        size = sizes[id(node)]
        if size is None:
            raise _refused(node.start_mark, "an alias stands within what it stands for")
        if size > MOST_NODES:
            raise _refused(node.start_mark, _TOO_MANY)
        return size

    size_of(root)


def _refused(mark: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _described(error: yaml.MarkedYAMLError) -> str:
    mark: Any = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}: " if mark else ""
    context = f"{error.context}, " if error.context else ""
    return _one_line(f"{where}{context}{error.problem}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
