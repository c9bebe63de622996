"""One file for each kind, without Kopf: guard clauses, then inspect → diff → plan → apply → verify by an engine."""
