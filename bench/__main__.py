"""``python -m bench [NAME …] [--scale 0.2]``: all measurements, or those that are named.

Exit status: 0 when all were made, 1 when one failed (the others are made all the same), 2 for a wrong option.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from bench.results import folder
from sandbox.progress import note

#: What each does, and its minutes at full scale on two quiet cores.
NAMES = {
    "splitter": ("split scripts of 3 MB, beside postgast", 1),
    "migrations": ("250 migrations beside psql, dbmate and golang-migrate; status; 100 MB of data", 5),
    "inspect": ("look at a database of 5,000 tables, without and with policies, beside psql", 3),
    "empty": ("an empty pass, beside the same statement over a bare connection", 1),
    "drifted": ("1,000 objects changed by hand, in one database and in eight, beside psql", 3),
    "memory": ("memory and passes of an operator that keeps a database of 5,000 tables", 4),
    "apply_to_ready": ("kubectl apply to Ready for one DatabaseSchema, beside psql", 1),
    "peers": ("one unit, 200 units, outages and drift, beside comparable operators", 18),
    "thousand": ("1,000 DatabaseSchemas at once, four times", 8),
    "idle": ("1,000 DatabaseSchemas left alone, and 5,000 watched", 20),
    "shards": ("0, 1,000 and 5,000 DatabaseSchemas kept by one operator and by three shards; 50 at dead servers", 20),
    "pods": ("the image's size, starts and hand-overs of the operator in pods; as root", 8),
}
#: Characters of an error in the summary; the whole of it stands above, with its traceback.
_SHOWN = 200


def main() -> int:
    """Run them one after the other; results go to bench/results/, those below full scale to its folder ``scaled``."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the budgets on real servers that are started for it.",
        epilog="; ".join(f"{name}: {what}, {minutes} min" for name, (what, minutes) in NAMES.items()),
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; default: all; peers.fleet: one part"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the units, for a first look")
    arguments = parser.parse_args()
    unknown = {name.partition(".")[0] for name in arguments.names} - NAMES.keys()
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}: write one of {', '.join(NAMES)}")
    if not 0 < arguments.scale <= 1:
        parser.error("--scale is above 0 and at most 1")
    return _run(arguments.names or list(NAMES), arguments.scale)


def _run(names: list[str], scale: float) -> int:
    _announce(names, scale)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    broken: list[str] = []
    threading.excepthook = _thread_failed(broken)
    outcomes: list[str] = []
    for name in names:
        module, _, part = name.partition(".")
        started = time.monotonic()
        before = len(broken)
        note(f"{name} begins")
        try:
            importlib.import_module(f"bench.{module}").measure(scale, *([part] if part else []))
        except Exception as error:  # noqa: BLE001 - one that fails does not keep the others from being made
            traceback.print_exc()
            broken.append(f"{type(error).__name__}: {error}"[:_SHOWN])
        seconds = time.monotonic() - started
        failure = "; ".join(broken[before:])
        outcomes.append(f"{name}: {f'FAILED after {seconds:.0f} s: {failure}' if failure else f'{seconds:.0f} s'}")
        note(outcomes[-1])
    if len(outcomes) > 1:
        note("\n".join(["", "together:", *(f"  {line}" for line in outcomes)]))
    return 1 if broken else 0


def _announce(names: list[str], scale: float) -> None:
    for name in names:
        what, minutes = NAMES[name.partition(".")[0]]
        part = " (one part of it)" if "." in name else ""
        time_needed = f"about {minutes} min" if scale == 1 else f"at most {minutes} min"
        note(f"{name}: {what}{part}; {time_needed}")
    shown = "" if scale == 1 else f", scale {scale:g}: a first look, no comparison"
    note(f"results: {folder(scale)}{shown}")


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """A signal unwinds the stack, so that every server ends; and it says so, since a shell that is gone does not."""
    note(f"ended by {signal.Signals(number).name}: what was not written yet is lost")
    sys.exit(128 + number)


def _thread_failed(broken: list[str]) -> Callable[[Any], None]:
    def failed(arguments: Any) -> None:
        traceback.print_exception(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
        broken.append(f"thread {arguments.thread.name}: {arguments.exc_type.__name__}: {arguments.exc_value}")

    return failed


if __name__ == "__main__":
    sys.exit(main())
