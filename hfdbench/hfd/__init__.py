# pyright: basic
"""HFD itself: autoencoder, network, samplers, tiling. Knows nothing of the benchmark."""
