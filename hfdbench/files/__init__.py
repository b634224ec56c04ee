"""Files on disk and on the network."""
