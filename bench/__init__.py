"""Budgets, measured on real servers beside a bare tool in the same run: ``python -m bench [NAME …]``."""
