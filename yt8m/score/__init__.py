"""Score a submission: `python -m yt8m.score submission=FILE.csv labels=GLOB`."""
