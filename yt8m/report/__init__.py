"""Comparison of runs: `python -m yt8m.report`."""
