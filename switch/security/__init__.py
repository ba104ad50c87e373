"""Card data at rest and in memory, and the keys of callers."""
