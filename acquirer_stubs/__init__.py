"""A simulated acquirer host: it answers ISO 8583 over TCP, keeps its own durable book, and misbehaves on request.

It shares nothing with the switch, not even the field table, so that a mistake of one side cannot be mirrored by the other.
"""
