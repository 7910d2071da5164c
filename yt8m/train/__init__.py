"""Training: `python -m yt8m.train`."""
