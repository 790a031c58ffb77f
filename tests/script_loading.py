"""Modules beside the package, in folders that are not on the path: benchmarks/ and docs/."""

import importlib
import sys
from pathlib import Path
from typing import Any


def load_script(folder: str, name: str) -> Any:
    """The module of a file in a folder of the checkout; it may import its neighbours."""
    path = str(Path(__file__).parent.parent / folder)
    sys.path.insert(0, path)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(path)
