"""``python -m selvedge``."""

from __future__ import annotations

from selvedge.cli import main

if __name__ == "__main__":
    main()
