"""Contracts of merchants: their life, documents, signatures of both sides, and what they bring into force."""
