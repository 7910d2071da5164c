"""W&B sweep agent with a meaningful exit code: `python -m yt8m.agent`."""
