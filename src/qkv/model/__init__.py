"""Encoder–decoders: recurrent ones with attention, and the Transformer."""
