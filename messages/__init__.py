"""ISO 8583: bytes to fields and back. Pure: no clock, no socket, no randomness."""
