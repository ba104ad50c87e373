"""Dialects of ISO 8583: literals only."""
