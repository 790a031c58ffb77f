"""Time and memory of attention specs side by side, on this machine.

>>> contenders = read_contenders(["sdpa", "rfa"], Setting())
>>> compare(contenders, [512, 2048])                                     # doctest: +SKIP
"""

from .curves import Crossing as Crossing
from .curves import find_crossing as find_crossing
from .curves import fit_exponent as fit_exponent
from .machine import Machine as Machine
from .machine import describe_machine as describe_machine
from .memory import OUT_OF_MEMORY as OUT_OF_MEMORY
from .memory import MeasurementFailed as MeasurementFailed
from .memory import limit_memory as limit_memory
from .memory import measure_memory as measure_memory
from .memory import measure_peak as measure_peak
from .results import Cell as Cell
from .results import Comparison as Comparison
from .specs import Contender as Contender
from .specs import Setting as Setting
from .specs import read_contenders as read_contenders
from .timing import compare as compare
from .timing import measure as measure
from .timing import time_calls as time_calls
