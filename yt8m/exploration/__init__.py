"""What `yt8m.explore` counts, draws and writes."""
