"""squawk, a linter of Postgres migrations, asked for advice where it is installed (in the image; the extra ``lint``).

A file is people's text, and the program that parses it runs beside the operator's passwords: it sees the text on its
standard input and nothing else (no environment, no file, no terminal), may take little time and memory, and writes no
file. One runs at a time. Whatever becomes of it is one line of advice, and the plan goes on.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from selvedge.core.words import some
from selvedge.migrate.finding import Finding, Severity
from selvedge.migrate.load import Migration

TIMEOUT = 15.0
"""Seconds for all files together, less than an operator has that is told to stop; one file takes milliseconds."""
LARGEST = 2_000_000
"""Characters of a part that are still looked at: more is data."""
MOST_OUTPUT = 4 * 1024 * 1024
"""Bytes that it may print about one file; 2 MB of DDL with a finding in each line are 20 MB."""
MEMORY = 256 * 1024 * 1024
"""Bytes of address space; 2 MB of SQL take 120 MB, and the operator's container has 512 MB for everything."""
_CPU_SECONDS = 10
_STACK = 8 * 1024 * 1024
_MESSAGE = 300
_TOGETHER = 200_000

_LIMITS = {
    resource.RLIMIT_AS: (MEMORY, MEMORY),
    # at the second one the kernel kills it without a word of why
    resource.RLIMIT_CPU: (_CPU_SECONDS, _CPU_SECONDS + 1),
    resource.RLIMIT_FSIZE: (MOST_OUTPUT, MOST_OUTPUT),
    resource.RLIMIT_CORE: (0, 0),
}
_ENDED = {
    signal.SIGXFSZ: f"it had more to say than {MOST_OUTPUT // 1024**2} MB",
    signal.SIGXCPU: f"it computed for more than {_CPU_SECONDS} s",
}
#: Of what it prints when it dies, only what holds nothing of the file: statements may hold passwords.
_LAST_WORDS = re.compile(r"stack overflow|memory allocation of \d+ bytes failed|panicked at [\w./@-]+:\d+:\d+")
_one_at_a_time = threading.Lock()

#: What our own rules say more exactly, and what the runner does by itself.
_EXCLUDED = (
    "require-lock-timeout,require-statement-timeout,require-timeout-settings,prefer-robust-stmts,transaction-nesting,"
    "ban-uncommitted-transaction,ban-concurrent-index-creation-in-transaction,ban-drop-table,ban-drop-column,"
    "ban-drop-database,ban-drop-schema,ban-drop-sequence,ban-drop-extension,ban-drop-type,ban-drop-domain,ban-drop-view,"
    "ban-drop-function,ban-drop-default,ban-truncate-cascade,renaming-column,renaming-table,renaming-object,"
    "adding-required-field,"
    # a length that the application knows is a rule, and a small number may stay one
    "prefer-text-field,prefer-bigint-over-smallint"
)


class _NoAnswerError(Exception):
    """It did not answer about one file; the text says why, and quotes nothing of the file."""


def program() -> str | None:
    """Where squawk is: beside this Python or on the PATH; None where it is not installed."""
    return shutil.which("squawk", path=str(Path(sys.executable).parent)) or shutil.which("squawk")


def ask(migrations: Iterable[Migration], server_version: int) -> list[Finding]:
    """What squawk finds in the up parts, without what depends on transactions: those are the runner's.

    A program that is not there, fails or takes longer than :data:`TIMEOUT` is one finding that says so. Takes a process
    and milliseconds: not for an event loop.
    """
    path = program()
    if path is None:
        return [_about("squawk is not installed, so its rules were not asked", "pip install 'selvedge[lint]'")]
    parts = [migration for migration in migrations if migration.engine == "Postgres"]
    message = f"squawk was not asked, as the file is larger than {LARGEST // 1_000_000} MB"
    found = [Finding(one.file, 1, "squawk", "advice", message) for one in parts if len(one.up) > LARGEST]
    asking = _Asking(path, server_version, time.monotonic() + TIMEOUT)
    for together in _batches(one for one in parts if len(one.up) <= LARGEST):
        found += asking.about(together)
    step = "run it by hand on the file to see why"
    return found + [_about(f"squawk failed on {some(files)}: {why}", step) for why, files in asking.failed.items()]


def _batches(parts: Iterable[Migration]) -> Iterator[list[Migration]]:
    """Files that are asked about at once: to start it takes longer than to read a hundred of them."""
    batch: list[Migration] = []
    size = 0
    for one in parts:
        if "squawk-ignore" in one.up:
            yield [one]  # what it says of its file is not said of others
            continue
        if batch and size + len(one.up) > _TOGETHER:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += len(one.up)
    if batch:
        yield batch


@dataclass(slots=True)
class _Asking:
    """One question about many files, and on which of them it failed, by the reason."""

    path: str
    server_version: int
    deadline: float
    failed: dict[str, list[str]] = field(default_factory=dict)

    def about(self, batch: list[Migration]) -> list[Finding]:
        """Findings in the batch's files; each is asked about alone where one that cannot be parsed spoils the rest."""
        try:
            found = self._findings(batch)
        except _NoAnswerError as error:
            if len(batch) == 1:
                self.failed.setdefault(str(error), []).append(batch[0].file)
                return []
        else:
            if len(batch) == 1 or all(one.rule != "syntax-error" for one in found):
                return found
        return [finding for one in batch for finding in self.about([one])]

    def _findings(self, batch: list[Migration]) -> list[Finding]:
        texts = [_without_data(one) + "\n;\n" for one in batch]
        begins = list(itertools.accumulate((text.count("\n") for text in texts), initial=0))
        answer = self._answer("".join(texts))
        try:
            rows = [(int(row["line"]), row) for row in json.loads(answer)]
            places = [(line, bisect.bisect_right(begins, line, hi=len(batch)) - 1, row) for line, row in rows]
            return [_finding(row, batch[index], line - begins[index]) for line, index, row in places]
        except (ValueError, TypeError, KeyError):
            raise _NoAnswerError("what it printed is no list of findings") from None

    def _answer(self, text: str) -> bytes:
        late = _NoAnswerError(f"it did not answer within {TIMEOUT:.0f} s")
        if not _one_at_a_time.acquire(timeout=max(0.0, self.deadline - time.monotonic())):
            raise late
        try:
            seconds = self.deadline - time.monotonic()
            if seconds <= 0:
                raise late
            return _answer(self.path, text, self.server_version, seconds)
        except subprocess.TimeoutExpired:
            raise late from None
        except OSError as error:
            raise _NoAnswerError(f"it cannot be run ({error.strerror})") from None
        finally:
            _one_at_a_time.release()


def _answer(path: str, text: str, server_version: int, seconds: float) -> bytes:
    """What it printed about ``text``. Raises _NoAnswerError, TimeoutExpired, and OSError where it cannot be run."""
    command = [path, "--reporter", "json", "--pg-version", f"{server_version}.0", "--exclude", _EXCLUDED]
    # files in memory: a container's root is read-only, and their size is what RLIMIT_FSIZE bounds
    with _in_memory() as out, _in_memory() as err:
        with _bounded_stack():
            process = subprocess.Popen(  # noqa: S603 - the program's own path, and arguments that are all ours
                command, stdin=subprocess.PIPE, stdout=out, stderr=err, cwd="/", env={}, start_new_session=True
            )
        with process:
            try:
                # it waits for its first byte of SQL, so that no line is read without limits
                _limit(process.pid)
                process.communicate(text.encode(), timeout=seconds)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode not in (0, 1):
            raise _NoAnswerError(_why(process.returncode, _read(err)))
        return _read(out)


@contextmanager
def _bounded_stack() -> Iterator[None]:
    """A program that is started meanwhile has a stack of bounded size, which it looks at as it starts.

    Without a limit it recurses until something else ends it: that takes seconds, and does not say why. One at a time.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if 0 <= soft <= _STACK:  # no limit is a negative number
        yield
        return
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


def _limit(pid: int) -> None:
    if not hasattr(resource, "prlimit"):
        return  # no Linux: a person asks about files of his own
    try:
        for limit, (soft, hard) in _LIMITS.items():
            ours = resource.getrlimit(limit)[1]
            most = hard if ours < 0 else min(hard, ours)  # no limit is a negative number; ours may not be raised
            resource.prlimit(pid, limit, (min(soft, most), most))
    except ProcessLookupError:
        """It has ended already, and its exit status says more."""


def _in_memory() -> IO[bytes]:
    if not hasattr(os, "memfd_create"):
        return tempfile.TemporaryFile()
    return os.fdopen(os.memfd_create("squawk", os.MFD_CLOEXEC), "w+b")


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(MOST_OUTPUT)


def _why(status: int, printed: bytes) -> str:
    words = printed.decode(errors="replace")
    if status == 2 and words.startswith("error: "):
        return words.splitlines()[0][:_MESSAGE]  # about its arguments, which are ours
    if -status in _ENDED:
        return _ENDED[signal.Signals(-status)]
    last = _LAST_WORDS.search(words)
    if last:
        return last[0]
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _finding(row: dict[str, str], migration: Migration, line: int) -> Finding:
    rule = str(row["rule_name"])
    severity: Severity = "advice" if rule.startswith(("prefer-", "ban-char")) else "warning"
    message, step = (_sentence(row.get(name)) for name in ("message", "help"))
    return Finding(migration.file, line + migration.up_line, rule, severity, message, step)


def _sentence(text: str | None) -> str:
    """In one line, and of bounded length: it may hold a name of the file's."""
    return str(text or "").strip().rstrip(".").replace("\n", " ")[:_MESSAGE]


def _without_data(migration: Migration) -> str:
    """The up part with the rows of COPY taken out, line for line: they are no SQL."""
    text, position = migration.up, 0
    for statement in migration.script.statements:
        if statement.data:
            begin = text.find(statement.data, position)
            end = begin + len(statement.data)
            text = text[:begin] + "\n" * statement.data.count("\n") + text[end:]
            # the line that ends the data is none of SQL's either
            text = text[:begin] + text[begin:].replace("\\.", "  ", 1)
            position = begin
    return text


def _about(message: str, step: str) -> Finding:
    return Finding("squawk", 0, "squawk", "advice", message, step)
