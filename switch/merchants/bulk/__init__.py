"""Merchants, stores, terminals and their numbers by the thousand, from a file."""
