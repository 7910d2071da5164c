"""A page to try a checkpoint in the browser: `python -m yt8m.demo`."""
