"""Prints the lowest versions that pyproject.toml accepts, one requirement a line, for `make lowest`."""

import tomllib
from pathlib import Path

TOOLS = ("ruff", "pyright", "import-linter", "mkdocs-material", "mkdocstrings[python]")
project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in (*project["dependencies"], *extras["plot"], *extras["log"], *extras["dev"]):
    name, _, bound = requirement.partition(">=")
    if bound and name not in TOOLS:
        print(f"{name}=={bound}")
