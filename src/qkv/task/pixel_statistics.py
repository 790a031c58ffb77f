"""The file of a run that holds what pixels are normalised by."""

import json
from collections.abc import Mapping
from pathlib import Path

from qkv.data.pictures import PixelStatistics
from qkv.errors import BadRun

STATISTICS = "pixels.json"


def format_statistics(statistics: PixelStatistics) -> dict[str, bytes]:
    """Name -> content of the file.

    Args:
        statistics: those of the training pictures.
    """
    return {STATISTICS: json.dumps(statistics._asdict()).encode()}


def parse_statistics(contents: Mapping[str, bytes], run: Path) -> PixelStatistics:
    """The statistics that `format_statistics` wrote.

    Args:
        contents: name -> content of the files of a run.
        run: its directory, for the message.

    Raises:
        BadRun: the file is damaged.
    """
    try:
        return PixelStatistics.from_dict(json.loads(contents[STATISTICS]))
    except (ValueError, KeyError, TypeError) as error:
        raise BadRun(f"{run / STATISTICS} is damaged ({error}): restore it from a copy") from None
