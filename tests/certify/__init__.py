"""Certification of a dialect: what an acquirer makes a switch show before it lets it in, over HTTP and TCP, with real processes."""
