"""``python -m bench [NAME …] [--scale 0.2]``: all measurements, or those that are named."""

from __future__ import annotations

import argparse
import importlib

NAMES = ("inspect", "apply_to_ready", "peers", "thousand", "idle")


def main() -> None:
    """Run them one after the other; results go to bench/results/."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; default: all; peers.fleet: one part"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the units, for a first look")
    arguments = parser.parse_args()
    unknown = {name.partition(".")[0] for name in arguments.names} - set(NAMES)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}: write one of {', '.join(NAMES)}")
    for name in arguments.names or NAMES:
        module, _, part = name.partition(".")
        importlib.import_module(f"bench.{module}").measure(arguments.scale, *([part] if part else []))


if __name__ == "__main__":
    main()
