"""Pictures of coloured shapes, each with a sentence about them, their boxes, and what every word names.

With two objects there are 20,664 sentences, of which 15,192 can occur in training and 5,472 are held out.
With three objects there are 826,560, of which 520,752 can occur in training.
"""

from qkv.data.generated.shapes.corpus import ShapesConfig as ShapesConfig
from qkv.data.generated.shapes.corpus import ShapesExample as ShapesExample
from qkv.data.generated.shapes.corpus import ShapesPixels as ShapesPixels
from qkv.data.generated.shapes.corpus import ShapesSplit as ShapesSplit
from qkv.data.generated.shapes.scenes import COLOURS as COLOURS
from qkv.data.generated.shapes.scenes import PLACES as PLACES
from qkv.data.generated.shapes.scenes import SHAPES as SHAPES
from qkv.data.generated.shapes.scenes import is_held_out as is_held_out
from qkv.data.generated.shapes.sentences import LANGUAGES as LANGUAGES
