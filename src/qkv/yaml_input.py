"""Reads untrusted YAML: plain data only, in bounded time and memory."""

from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

MAX_CHARACTERS = 100_000
MAX_NODES = 20_000  # an alias counts every time it is used
MAX_DEPTH = 40
LARGEST_INTEGER = 2**63 - 1
_PREFIX = "tag:yaml.org,2002:"
_STRING, _INTEGER = f"{_PREFIX}str", f"{_PREFIX}int"
_TOO_MANY_VALUES = f"more than {MAX_NODES:,} values, where aliases count every time they are used: shorten it"
_LONGEST_INTEGER = 100  # characters, in any base


def load_yaml(text: str) -> Any:
    """Parse YAML into mappings, lists, text, numbers, dates, booleans and null.

    Args:
        text: The text.

    Returns:
        The data; None for an empty text.

    Raises:
        ValueError: It is not YAML, or has duplicate keys, tags, integers beyond 64 bits, too many levels, or
            more text or values than any recipe needs.  The message is one line with the line number.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"it has more than {MAX_CHARACTERS:,} characters, far beyond any recipe: shorten it, or pass "
            "another file"
        )
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise ValueError(_format_error(error)) from None
    except yaml.YAMLError as error:
        raise ValueError(_one_line(str(error))) from None
    except (ValueError, OverflowError) as error:  # an impossible date, or an escape beyond Unicode
        raise ValueError(_one_line(str(error))) from None


def read_yaml_text(path: Path) -> str:
    """Read the text of a YAML file or pipe, no further than the limit.

    Args:
        path: The path of the file.

    Returns:
        The text.

    Raises:
        OSError: It cannot be read.
        ValueError: It is too long or not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(4 * MAX_CHARACTERS + 1)
    if len(content) > 4 * MAX_CHARACTERS:
        raise ValueError(
            f"it has more than {MAX_CHARACTERS:,} characters, far beyond any recipe: shorten it, or pass "
            "another file"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text: convert it to UTF-8") from None


class _Loader(yaml.SafeLoader):
    """A SafeLoader with errors, with line numbers, for harmful or ambiguous YAML."""

    depth = count = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a node, and check depth, number of nodes and tag."""
        event: Any = self.peek_event()
        if self.depth == MAX_DEPTH:
            raise _build_error(event.start_mark, f"more than {MAX_DEPTH} levels: nest it less deeply")
        if self.count == MAX_NODES:
            raise _build_error(event.start_mark, _TOO_MANY_VALUES)
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", _STRING):
            short_tag = tag.replace(_PREFIX, "!!")
            raise _build_error(event.start_mark, f"the tag {short_tag!r} is not supported: leave it out")
        self.depth += 1
        self.count += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Compose a mapping, and check that its keys differ."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                name = (key.tag, key.value)
                if name in lines:
                    problem = f"the key {key.value!r} occurs twice (first in line {lines[name] + 1})"
                    raise _build_error(key.start_mark, f"{problem}: remove one")
                lines[name] = key.start_mark.line
        return node

    def construct_yaml_int(self, node: ScalarNode) -> int:
        """Construct an integer, and check that it has at most 64 bits."""
        small = len(node.value) <= _LONGEST_INTEGER
        value = super().construct_yaml_int(node) if small else LARGEST_INTEGER + 1
        if abs(value) > LARGEST_INTEGER:
            raise _build_error(
                node.start_mark,
                f"{node.value[:30]} is an integer beyond 64 bits: write a smaller one, or quote it as text",
            )
        return value


_Loader.add_constructor(_INTEGER, _Loader.construct_yaml_int)


def _check_size(root: Node) -> None:
    """Count the nodes, where aliases count every time they are used, and check the total."""
    sizes: dict[int, int | None] = {}

    def count_nodes(node: Node) -> int:
        if not isinstance(node, CollectionNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = None
            children = (
                child for item in node.value for child in (item if isinstance(item, tuple) else (item,))
            )
            sizes[id(node)] = 1 + sum(map(count_nodes, children))
        size = sizes[id(node)]
        if size is None:
            raise _build_error(
                node.start_mark, "an alias is inside the value that it refers to: write the value out"
            )
        if size > MAX_NODES:
            raise _build_error(node.start_mark, _TOO_MANY_VALUES)
        return size

    count_nodes(root)


def _build_error(mark: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _format_error(error: yaml.MarkedYAMLError) -> str:
    mark: Any = error.problem_mark or error.context_mark
    position = f"line {mark.line + 1}: " if mark else ""
    context = f"{error.context}, " if error.context else ""
    return _one_line(f"{position}{context}{error.problem}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
