"""A section `Example:` of a docstring becomes code on the site; griffe knows it as `Examples:`."""

from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Renames the sections while the reference is written."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of every module, class and function that is loaded."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
