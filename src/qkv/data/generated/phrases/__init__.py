"""A parallel corpus of generated phrases, for any two languages that Babel has CLDR data for."""

from qkv.data.generated.phrases.corpus import PhraseData as PhraseData
from qkv.data.generated.phrases.corpus import Split as Split
from qkv.data.generated.phrases.corpus import generate_gold_pairs as generate_gold_pairs
from qkv.data.generated.phrases.corpus import generate_phrases as generate_phrases
from qkv.data.generated.phrases.corpus import split_phrases as split_phrases
from qkv.data.generated.phrases.gold import GoldPair as GoldPair
from qkv.data.generated.phrases.kinds import KINDS as KINDS
