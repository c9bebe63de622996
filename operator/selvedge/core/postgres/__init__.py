"""Postgres, without a server: what is declared, what is there, and the typed changes between the two."""
