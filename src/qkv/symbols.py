"""Token ids of the special symbols, the same in every vocabulary and every model."""

PAD, UNK, BOS, EOS = 0, 1, 2, 3
