"""HFD itself: autoencoder, network, schedule, samplers, tiling, training. Knows nothing of the benchmark."""
