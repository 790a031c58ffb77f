"""Finding the input that is not a number before it has spread: `with qkv.debug_nan(): ...`."""

from types import TracebackType

from torch import Tensor

from qkv.errors import BadData
from qkv.tracing import can_read


class debug_nan:
    """While on, every attention looks for NaN in what it is given, and names what it finds.

        with qkv.debug_nan():           # inside the block
            model(x)
        qkv.debug_nan()                 # from here on; qkv.debug_nan(False) ends it

    Raises BadData with the argument and the first place in it.  It reads every input once more and waits for
    the device, so it is for looking, not for training.
    """

    on = False

    def __init__(self, on: bool = True) -> None:
        self.before = debug_nan.on
        debug_nan.on = on

    def __enter__(self) -> "debug_nan":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        debug_nan.on = self.before


def check(**given: Tensor | None) -> None:
    """Raise BadData for the first argument that holds NaN, while `debug_nan` is on."""
    if not debug_nan.on:
        return
    for name, value in given.items():
        if value is not None and can_read(value) and bool(value.isnan().any()):
            where = value.isnan().nonzero()
            raise BadData(
                f"{name} {list(value.shape)} holds NaN, first at {where[0].tolist()}, {len(where)} in all: "
                "look at what made it, such as a loss that diverged, 0/0, or padding filled with NaN"
            )
