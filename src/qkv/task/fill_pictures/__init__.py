"""The task `fill` for pictures: encoders that learn by predicting hidden patches."""
