"""The Python face of the package: what `yt8m.load` and `yt8m.open` return."""
