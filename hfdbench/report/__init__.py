"""What was measured, shown: curves (plain data), figures, tables."""
