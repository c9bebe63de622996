"""MongoDB, pure: what a database holds, what it should hold, and the difference. No driver, no I/O."""
