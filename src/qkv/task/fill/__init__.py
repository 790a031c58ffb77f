"""The task `fill`: masked language models, which guess words from all the others."""
