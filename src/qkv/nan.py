"""Finding the input that is not a number before it spreads: `with qkv.debug_nan(): ...`."""

from types import TracebackType

from torch import Tensor

from qkv.errors import BadData
from qkv.tracing import can_read


class debug_nan:
    """Switch on a check of every attention's inputs for NaN, which names the first input that has one.

    It raises BadData with the argument and the index.  It reads every input once more and synchronises with
    the device, so use it for debugging only.  Use it as a context manager, or call it to switch permanently.

    Args:
        on: Whether to check from here on.

    Example:
        >>> attention, x = qkv.Attention(8), torch.full((1, 2, 8), torch.nan)
        >>> with qkv.debug_nan():
        ...     attention(x)
        Traceback (most recent call last):
            ...
        qkv.errors.BadData: x [1, 2, 8] holds NaN, first at [0, 0, 0], 16 in all: ...
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


def check_inputs(**inputs: Tensor | None) -> None:
    """Check inputs for NaN while `debug_nan` is on.

    Args:
        **inputs: The inputs by the name of their argument.

    Raises:
        BadData: An input holds NaN.
    """
    if not debug_nan.on:
        return
    for name, x in inputs.items():
        if x is not None and can_read(x) and bool(x.isnan().any()):
            indices = x.isnan().nonzero()
            raise BadData(
                f"{name} {list(x.shape)} holds NaN, first at {indices[0].tolist()}, {len(indices)} in all: "
                "look at what computed it, such as a loss that diverged, 0/0, or padding filled with NaN"
            )
