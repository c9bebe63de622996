"""What ``selvedge migrate`` shows: bars on a terminal, plain lines without one, one object a line for machines."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sandbox import PostgresEndpoint
from tests.engines.migrate_cli_support import Shop, fresh
from tests.waiting import wait_for

NOTES = "20250103000000_notes.sql"
#: Three statements; the second waits for whoever holds the table.
WAITS = {NOTES: "-- migrate:up\nSELECT 1;\nALTER TABLE users ADD note text;\nSELECT 2;\n"}
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def shop(postgres18: PostgresEndpoint, tmp_path: Path) -> Iterator[Shop]:
    with fresh(postgres18, tmp_path / "migrations") as shop:
        yield shop


class Terminal:
    """A pseudo-terminal that a command believes in, and what was drawn on it."""

    def __init__(self, shop: Shop, *arguments: str, lines: int = 40, columns: int = 180) -> None:
        self._master, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "selvedge", "migrate", *arguments],
            env={**shop.environ(), "TERM": "xterm-256color"},
            stdin=other,
            stdout=other,
            stderr=other,
        )
        os.close(other)
        self._drawn = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                found = os.read(self._master, 65536)
            except OSError as error:
                if error.errno != errno.EIO:  # Linux: nobody has the other side open any more
                    raise
                return
            if not found:
                return
            self._drawn += found

    @property
    def text(self) -> str:
        """Everything that was drawn, without colours."""
        return _ESCAPES.sub("", self._drawn.decode(errors="replace")).replace("\r", "\n")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, pattern: str) -> str:
        """Wait until something that was drawn matches; returns it."""
        found: list[str] = []

        def drawn() -> bool:
            found[:] = [match[0] for match in re.finditer(pattern, self.text)]
            return bool(found)

        wait_for(drawn, 30)
        return found[-1]

    def end(self) -> int:
        """Wait for the command; returns its exit status."""
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self._reader.join(10)
            os.close(self._master)


def holding(shop: Shop, work: Callable[[int], None]) -> None:
    """Hold the table while ``work`` looks on; it is given the pid of the holder."""
    with closing(shop.endpoint.connect(shop.name)) as holder, holder.transaction():
        holder.execute("LOCK TABLE users IN ACCESS SHARE MODE")
        work(holder.info.backend_pid)


def test_a_bar_for_each_migration_with_statements_elapsed_and_whom_it_waits_for(shop: Shop) -> None:
    assert shop.migrate("up").exit_code == 0
    assert shop.migrate("down", "--target", "20250101000000", "--yes").exit_code == 0
    shop.write(**WAITS)
    terminal: list[Terminal] = []

    def look(pid: int) -> None:
        terminal.append(Terminal(shop, "up"))
        line = terminal[0].until(r"20250103000000 notes [^\n]*waits for [^\n]*\n")
        # a bar, the statements that are done, the time, and who holds the lock
        assert re.match(r"20250103000000 notes [━╸╺ ]+ 1/3 0:00:0[0-9] waits for ", line), line
        assert str(pid) in line, line

    holding(shop, look)
    assert terminal[0].end() == 0, terminal[0].text
    drawn = terminal[0].text
    last = drawn[drawn.rindex("20250102000000 orders") :]
    ended = r"{} ━+ {} 0:00:[0-9]{{2}} applied\s+"
    both = ended.format("20250102000000 orders", "1/1") + ended.format("20250103000000 notes ", "3/3")
    assert re.match(both, last), last
    assert f"{shop.name}: 2 steps done, version 20250103000000" in last


def test_many_migrations_become_lines_above_the_bars(shop: Shop) -> None:
    shop.write(**{f"202502{n:02}000000_more_{n}.sql": f"CREATE TABLE more_{n} (id int);\n" for n in range(1, 21)})
    terminal = Terminal(shop, "up", lines=24)
    assert terminal.end() == 0, terminal.text
    assert "20250101000000 users: applied, 2/2 statements" in terminal.text
    assert terminal.text.rstrip().endswith(f"{shop.name}: 22 steps done, version 20250220000000")


def test_a_terminal_is_asked_and_no_is_no(shop: Shop) -> None:
    assert shop.migrate("up").exit_code == 0
    terminal = Terminal(shop, "down")
    terminal.until(r"Run this\?")
    assert "undo  20250102000000  orders  1 statement" in terminal.text
    terminal.type("n\n")
    assert terminal.end() == 1
    assert "nothing was changed" in terminal.text
    assert len(shop.versions()) == 2
    terminal = Terminal(shop, "down")
    terminal.until(r"Run this\?")
    terminal.type("y\n")
    assert terminal.end() == 0, terminal.text
    assert shop.versions() == ["20250101000000"]


def test_without_a_terminal_plain_lines_and_one_object_a_line_for_machines(shop: Shop) -> None:
    up = shop.process("up")
    assert up.returncode == 0, up.stderr
    assert "\x1b" not in up.stdout + up.stderr
    lines = [re.sub(r"[0-9.]+ s$", "… s", line) for line in up.stdout.splitlines()]
    assert lines == [
        "20250101000000 users: applied, 2/2 statements, … s",
        "20250102000000 orders: applied, 1/1 statements, … s",
        f"{shop.name}: 2 steps done, version 20250102000000",
    ]
    down = shop.process("to", "0", "--yes", "-o", "json")
    told = [json.loads(line) for line in down.stdout.splitlines()]
    assert [one["event"] for one in told[:-1]] == ["progress"] * (len(told) - 1)
    ended = [one["version"] for one in told if one.get("state") == "Undone"]
    assert ended == ["20250102000000", "20250101000000"]
    assert all(set(one) == set(told[0]) for one in told[:-1]), "every key is always there"
    assert (told[-1]["event"], told[-1]["state"], told[-1]["done"]) == ("result", "Succeeded", 2)
