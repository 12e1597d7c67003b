"""Metrics of a model on held-out rows, and batch generation over any backend; the Trainer is not needed."""
