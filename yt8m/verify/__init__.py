"""Integrity checks of a dataset: `python -m yt8m.verify`."""
