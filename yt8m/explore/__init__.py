"""Plots and statistics of a dataset: `python -m yt8m.explore`."""
