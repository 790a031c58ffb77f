"""Joins the ES modules of the page into one script, which needs no further file."""

import re
from functools import cache
from importlib.resources import files

_FOLDER = files("qkv.view") / "page"
_IMPORT = re.compile(r"^import\s*\{([^}]*)\}\s*from\s*\"\./([a-z_]+)\.js\";\n", re.M)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|const|class) (\w+))", re.M)


def read_page_file(name: str) -> str:
    """The text of a file of the folder `page`.

    Args:
        name: such as "style.css".
    """
    return (_FOLDER / name).read_text(encoding="utf-8")


@cache
def bundle_modules() -> str:
    """One script with the module "main" and all modules that it imports, each in a scope of its own."""
    parts: dict[str, str] = {}
    _add_module("main", parts)
    return "\n".join(parts.values())


def _add_module(name: str, parts: dict[str, str]) -> None:
    """Add a module after those that it imports."""
    source = read_page_file(f"{name}.js")
    for _, imported in _IMPORT.findall(source):
        if imported not in parts:
            _add_module(imported, parts)
    body = _IMPORT.sub(lambda match: f"const {{{match[1]}}} = module_{match[2]};\n", source)
    names = ", ".join(match[1] for match in _EXPORT.findall(body))
    body = _EXPORT.sub(r"\1", body)
    parts[name] = f"const module_{name} = (() => {{\n{body}return {{{names}}};\n}})();"
