"""A parallel corpus of generated phrases, for any two languages that Babel has CLDR data for."""

from qkv.data.phrases.corpus import PhraseData as PhraseData
from qkv.data.phrases.corpus import Split as Split
from qkv.data.phrases.corpus import generate as generate
from qkv.data.phrases.corpus import split as split
from qkv.data.phrases.kinds import KINDS as KINDS
