"""The task `generate`: language models of text, their training, scores and samples."""
