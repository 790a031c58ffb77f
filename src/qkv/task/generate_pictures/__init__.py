"""The task `generate` for pictures: generative adversarial networks."""
