"""Layers and tensor operations that several models share, one subject per file.

Frames are padded: of `x [B, T, D]`, only `x[b, :num_frames[b]]` is valid, with 1 <= num_frames <= T. Everything here
keeps padding out of valid results and their gradients, and never copies `num_frames` back from the device.
"""
