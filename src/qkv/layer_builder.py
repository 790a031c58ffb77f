"""The function that builds the layer of a spec.  The package sets it, because specs may not import layers."""

from collections.abc import Callable
from typing import Any

build_layer: Callable[[Any], Any]
