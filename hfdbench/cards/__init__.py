"""Cards: the declarations of codecs, datasets and reports."""
