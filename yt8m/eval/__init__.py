"""Evaluation of a checkpoint: `python -m yt8m.eval`."""
