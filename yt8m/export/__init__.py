"""A network as a file for other programs, ONNX or PT2: `python -m yt8m.export`."""
