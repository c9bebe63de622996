"""Selvedge: what lives inside database servers, declared, applied, proven and kept."""
