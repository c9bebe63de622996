"""Become another program that dies with its parent: ``launch.py PARENT SIGNAL UID GID PROGRAM ARGUMENT…``.

A program of its own, because Python code between fork and exec can deadlock in a process with threads.
The order matters: a change of credentials clears the parent-death signal, so it is set last; and the parent may have
died before it was set, so that is looked at afterwards.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def _main() -> None:
    parent, signal_number, uid, gid = (int(argument) for argument in sys.argv[1:5])
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")
    os.execvp(sys.argv[5], sys.argv[5:])  # noqa: S606 - what it is for


_main()
