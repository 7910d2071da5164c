"""Extract the dataset's features from videos: `python -m yt8m.extract videos=GLOB output=DIR weights=DIR`."""
