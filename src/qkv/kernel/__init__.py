"""How is the average computed?  Exactly, from weights, or through a feature map that never forms them.

A kernel part builds a core with `forward`, `attend`, `start`, `extend`, `read` and `explain` (see `exact`,
`linear`).
"""

from .elu import Elu as Elu
from .exact import Softmax as Softmax
from .favor import Favor as Favor
from .rfa import RFA as RFA

KERNELS = {part.name: part for part in (Softmax, RFA, Favor, Elu)}
