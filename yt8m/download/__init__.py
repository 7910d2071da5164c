"""Download of YouTube-8M: `python -m yt8m.download`."""
