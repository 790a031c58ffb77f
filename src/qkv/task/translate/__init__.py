"""Translation: pairs of lines, tokenizers of both sides, beam search, BLEU and its relatives."""
