"""The task `classify` for pictures: a label for a picture."""
