"""Video classification on YouTube-8M in PyTorch Lightning and Hydra."""

__version__ = "0.1.0"
