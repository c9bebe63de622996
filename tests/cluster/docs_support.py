"""The commands in the documentation: found in its code blocks, run in a shell, their output compared."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    if "adr" not in path.parts
)
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```", re.MULTILINE | re.DOTALL)
#: Languages whose blocks hold no command; a block without one holds commands where it begins with a program's name.
_NO_COMMANDS = frozenset({"yaml", "json", "sql", "mermaid", "promql", "lua"})
_PROGRAMS = (
    "make ",
    "kubectl ",
    "helm ",
    "pip ",
    "selvedge ",
    "export ",
    ".venv/bin/",
    "KUBECONFIG=",
    "git ",
    "docker ",
)
#: Within a text: whose commands are looked at, and those whose second word names a group of commands.
_INLINE = frozenset({"docker", "helm", "kubectl", "make", "psql", "selvedge"})
_GROUPS = frozenset({("kubectl", "selvedge"), ("selvedge", "migrate")})
_SECONDS = 150


@dataclass(frozen=True)
class Block:
    """A code block."""

    page: str
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command as it is printed, and the lines below it that it is to print."""

    page: str
    text: str
    output: tuple[str, ...] = ()

    @property
    def bare(self) -> str:
        """Without the remark at its end."""
        return re.sub(r"\s{2,}# .*", "", self.text).strip()


def blocks(page: Path) -> list[Block]:
    """Every code block of a page, without its indentation."""
    name = str(page.relative_to(ROOT))
    found = []
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        lines = [line.removeprefix(match["indent"]) for line in match["text"].splitlines()]
        found.append(Block(name, match["language"], "\n".join(lines) + "\n"))
    return found


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block: behind ``$``, or each line of a block of commands."""
    lines = block.text.replace("\\\n", "\\\0").splitlines()
    if any(line.startswith("$ ") for line in lines):
        found: list[tuple[str, list[str]]] = []
        for line in lines:
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found and line.strip():
                found[-1][1].append(line)
        for text, output in found:
            yield Command(block.page, text.replace("\\\0", "\\\n"), tuple(output))
    elif block.language == "sh" or (not block.language and block.text.startswith(_PROGRAMS)):
        for line in lines:
            if line.strip() and not line.startswith("#"):
                yield Command(block.page, line.replace("\\\0", "\\\n"))


def all_commands() -> list[Command]:
    """Every command of every page, in order."""
    return [
        command
        for page in PAGES
        for block in blocks(page)
        if block.language not in _NO_COMMANDS
        for command in commands(block)
    ]


def inline_commands() -> list[Command]:
    """Commands within the text of every page: a program, its subcommand, and something more (arguments, options)."""
    found = []
    for page in PAGES:
        text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
        for match in re.finditer(r"(?<!`)`([^`]+)`", text):
            words = match[1].replace(r"\|", "|").split()  # as a table has it
            subcommand = 3 if tuple(words[:2]) in _GROUPS else 1 if words[0] == "psql" else 2
            if words[0] in _INLINE and len(words) > subcommand:
                found.append(Command(str(page.relative_to(ROOT)), " ".join(words)))
    return found


def pattern(line: str) -> re.Pattern[str]:
    """What a printed line stands for: ``…`` for anything; an age, time, digest or number of objects for any other."""
    text = re.escape(" ".join(line.split()))
    for printed, meant in (
        (r"sha256:[0-9a-f]*…", r"sha256:[0-9a-f]+"),
        (r"\b[0-9a-f]{4}…", r"[0-9a-f]+"),
        (r"\d{4}\\-\d\d\\-\d\dT[\d:]+Z", r"\\S+Z"),
        (r"(?<!\d)\d{14}(?!\d)", r"\\d{14}"),
        (r"\b[0-9a-f]{10}\b", r"[0-9a-f]{10}"),
        (r"\b\d+(\\\.\d+)?(ms|s|m|h|d)\b", r"[\\d.]+(ms|s|m|h|d)\\S*"),
        (r"\b\d+\\\.\d+\\ s\b", r"[\\d.]+ s"),
        (r"\b\d+\\ objects\b", r"\\d+ objects"),
        (r"…", r".*"),
    ):
        text = re.sub(printed, meant, text)
    return re.compile(text)


@dataclass
class Shell:
    """A shell in which what is exported stays. ``changes`` are put into each command, one after the other."""

    directory: Path
    environment: dict[str, str]
    changes: dict[str, str] = field(default_factory=dict)
    done: set[Command] = field(default_factory=set)

    def run(self, text: str, *, fails: bool = False, answer: str = "") -> str:
        """Run a text as it is; what it printed, errors too. Its exit status has to be 0, or another with ``fails``."""
        with tempfile.NamedTemporaryFile() as exported:
            script = f"set -euo pipefail -a\n{text}\nset +a; env -0 > {exported.name}"
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=self.directory,
                env=self.environment,
                input=answer,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
            assert (done.returncode != 0) is fails, f"{text}\nexit status {done.returncode}\n{done.stdout}"
            pairs = Path(exported.name).read_text().split("\0")
        self.environment |= dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        return done.stdout

    def execute(self, command: Command, *, fails: bool = False, answer: str = "") -> str:
        """Run a command of the documentation and compare what it prints with what stands below it."""
        text = command.bare
        for printed, real in self.changes.items():
            text = text.replace(printed, real)
        assert "…" not in text, f"nothing is put in for … in {text}"
        printed = self.run(text, fails=fails, answer=answer)
        lines = iter([" ".join(line.split()) for line in printed.splitlines()])
        for expected in command.output:
            wanted = pattern(expected)
            assert any(wanted.search(line) for line in lines), f"{text}\nhas not printed\n{expected}\nbut\n{printed}"
        self.done.add(command)
        return printed


def page_of(name: str) -> list[Command]:
    """The commands of one page, in order."""
    return [command for command in all_commands() if command.page == name]


def clean_environment(path: str, **more: str) -> dict[str, str]:
    """A person's environment: a home, a locale, these directories on the PATH, and nothing of the test run's own."""
    kept = {
        name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "TERM", "SELVEDGE_CACHE") if name in os.environ
    }
    return {**kept, "PATH": f"{path}:{os.environ['PATH']}", **more}
