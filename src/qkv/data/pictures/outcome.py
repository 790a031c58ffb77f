"""Which picture files are used, which are not and why, as errors and as lines for the log."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from qkv.data.pictures.config import PictureConfig
from qkv.errors import BadData
from qkv.picture_decoding import ANIMATED, CMYK, Decoded
from qkv.wording import plural

MAX_SHOWN = 3
_CONVERSIONS = {ANIMATED: "animated, the first frame taken", CMYK: "CMYK, converted to RGB"}


class Outcome:
    """Collects what becomes of every file of a folder or zip file.

    Args:
        path: the folder or zip file, for messages.
        config: what becomes of pictures that cannot be used, and of unusual ones.
        problems: name -> why a file cannot be read.

    Attributes:
        names: of the pictures that are used, in their order.
    """

    def __init__(self, path: Path, config: PictureConfig, problems: Mapping[str, str]) -> None:
        self.path, self.config = path, config
        self.names: list[str] = []
        self.unusable = dict(problems)
        self.unusual: dict[str, list[str]] = {trait: [] for trait in _CONVERSIONS}

    def add(self, name: str, decoded: Decoded) -> bool:
        """Record a file, and say whether its pixels are used.

        Args:
            name: the name of the file.
            decoded: its pixels, or why there are none.
        """
        if decoded.pixels is None:
            self.unusable[name] = decoded.problem
            return False
        for trait in decoded.traits:
            self.unusual[trait].append(name)
        if decoded.traits and self.config.unusual != "convert":
            return False
        self.names.append(name)
        return True

    def refuse(self) -> None:
        """Raise BadData for the files that are to be refused, and where no picture is left."""
        skipped = {name: trait for trait, names in self.unusual.items() for name in names}
        total = len(self.names) + len(self.unusable) + len(skipped) * (self.config.unusual != "convert")
        if self.unusable and self.config.unusable == "refuse":
            raise BadData(
                f"{self.path}: {len(self.unusable):,} of {plural(total, 'picture')} cannot be used: "
                f"{list_names(self.unusable)}; repair or remove them, or set data.pictures.unusable: skip"
            )
        if skipped and self.config.unusual == "refuse":
            raise BadData(
                f"{self.path}: {len(skipped):,} of {plural(total, 'picture')} are animated or CMYK: "
                f"{list_names(skipped)}; remove them, or set data.pictures.unusual to convert or skip"
            )
        if not self.names:
            raise BadData(
                f"{self.path}: none of {plural(total, 'picture')} can be used: "
                f"{list_names({**skipped, **self.unusable})}"
            )

    def describe(self) -> list[str]:
        """Lines for the log about skipped and converted pictures."""
        lines = []
        if self.unusable:
            lines.append(f"skipped {plural(len(self.unusable), 'picture')}: {list_names(self.unusable)}")
        for trait, names in self.unusual.items():
            if names:
                action = _CONVERSIONS[trait] if self.config.unusual == "convert" else f"{trait}, skipped"
                number = plural(len(names), "picture is", "pictures are")
                lines.append(f"{number} {action}: {list_names(names)}")
        return lines


def list_names(names: Sequence[str] | Mapping[str, str]) -> str:
    """The first names, each with its reason where there is one, and how many more there are."""
    reasons = names if isinstance(names, Mapping) else {}
    shown = [f"{name} ({reasons[name]})" if name in reasons else name for name in list(names)[:MAX_SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
