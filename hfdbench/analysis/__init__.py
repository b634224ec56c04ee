"""What stored points say: plain data in, plain data out."""
