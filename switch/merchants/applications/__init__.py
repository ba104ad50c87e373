"""Applications of merchants: their life, documents, review and what an approval makes."""
