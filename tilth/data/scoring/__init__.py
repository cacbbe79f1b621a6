"""Models that score documents, trained here from examples: linear classifiers and n-gram language models."""
