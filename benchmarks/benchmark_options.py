"""Options of the command line that several benchmarks share."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path


def parse_names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """The type of an option that takes names separated by commas, all of which must be known."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name!r}; known: {', '.join(known)}")
        return names

    return parse


def parse_count(text: str) -> int:
    """The type of an option that takes a whole number of at least 1."""
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """The options of a benchmark that trains once what has no result in a folder yet."""
    parser.add_argument("folder", type=Path, help="where results, the table and the picture are written")
    parser.add_argument("--updates", type=parse_count, help="instead of those of the recipes")
    parser.add_argument("--minutes", type=float, help="start no training after so many minutes")


def add_run_options(parser: argparse.ArgumentParser, out: str) -> None:
    """The options of a benchmark whose runs are made once, with a fraction of their updates if asked for."""
    parser.add_argument("--budget", type=float, default=1.0, help="the fraction of updates to make")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(out))
