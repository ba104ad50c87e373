"""Alembic revisions in plain SQL; forward only, never edited after they landed."""
