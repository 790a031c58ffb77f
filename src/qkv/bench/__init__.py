"""Time and memory of attention specs side by side, on this machine.

>>> rows = compare(read(["sdpa", "rfa"], Setting()), [512, 2048])       # doctest: +SKIP
"""

from .curves import Crossing as Crossing
from .curves import crossing as crossing
from .curves import exponent as exponent
from .machine import Machine as Machine
from .machine import this_machine as this_machine
from .memory import FULL as FULL
from .memory import Unmeasured as Unmeasured
from .memory import bounded as bounded
from .memory import peak as peak
from .memory import taken as taken
from .results import Cell as Cell
from .results import Comparison as Comparison
from .specs import Contender as Contender
from .specs import Setting as Setting
from .specs import read as read
from .timing import compare as compare
from .timing import in_turn as in_turn
from .timing import measure as measure
