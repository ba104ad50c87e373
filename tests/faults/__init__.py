"""Faults on real processes: the failpoint sweep and the nemesis, with real PostgreSQL and sockets. docs/faults.md says how to run them."""
