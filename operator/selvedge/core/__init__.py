"""Pure code: models, diffs, plans, decisions. No I/O, no clock, no randomness that is not handed in."""
