"""The function that writes the page of a trace.  The package sets it, because traces import no pictures."""

from collections.abc import Callable
from typing import Any

build_page: Callable[[Any], str]
