"""Predictions from checkpoints: `python -m yt8m.predict`."""
