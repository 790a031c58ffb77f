"""Names of the attention layers of an encoder–decoder: "encoder.N", "cross.N" and "decoder.N" for layer N."""

import re
from typing import Literal, cast, get_args

from qkv.errors import BadData, did_you_mean

Place = Literal["encoder", "cross", "decoder"]


def parse_place(name: str) -> Place:
    """Read where a layer is from its name.

    Args:
        name: Such as "cross.0".

    Returns:
        "encoder", "cross" or "decoder".

    Raises:
        BadData: No layer has such a name.
    """
    place, _, layer = name.partition(".")
    places = get_args(Place)
    if place not in places:
        raise BadData(f"{name!r} is no layer of a translator. {did_you_mean(place, places)}")
    if not re.fullmatch("0|[1-9][0-9]*", layer):
        raise BadData(f"{name!r} is no layer of a translator: the number of a layer follows, as in {place}.0")
    return cast(Place, place)
