"""From a video file to the dataset's features: decoding, the two networks, PCA, quantization."""
