"""hfdbench: rate-distortion-realism benchmarks of image codecs, and the HFD decoder they were built for."""

__version__ = "0.1.0"
