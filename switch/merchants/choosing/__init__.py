"""Choosing an acquirer: what they offer, what was measured of them, what merchants say, and what a business needs."""
