"""Seeded simulation: the real switch (app.Switch with its journal, links, reversals, recovery) of three workers in virtual time.

Only the ground is imitated: the event loop (loop), PostgreSQL's few statements (books, statements, server), the lines (lines), the
acquirers (host), the terminals (terminal). One seed is the whole run: `python -m tests.simulation --seed N --trace`.
"""
