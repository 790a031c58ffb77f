"""The ids of the symbols that stand for no text; every vocabulary and every model agrees on them."""

PAD, UNK, BOS, EOS = 0, 1, 2, 3
