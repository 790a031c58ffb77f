"""Captions of pictures: their metrics, and how well attention points at what words name."""
