"""How a spec builds its layer: the package sets the function, because specs stand below layers."""

from collections.abc import Callable
from typing import Any

build_layer: Callable[[Any], Any]
