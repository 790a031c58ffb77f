"""The task `classify`: a label for a text, or for a pair of texts."""
