"""What `yt8m.download` does: the plan of a mirror, files fetched and checked, and a record of what was verified."""
