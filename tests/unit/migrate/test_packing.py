"""Migration files on their way out of an image: packed, printed, and found whole in a log, or not at all."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from selvedge.cli.main import main
from selvedge.migrate import image_reader
from selvedge.migrate.image_reader import ReadingError, file_name, lines, pack
from selvedge.migrate.lent import command
from selvedge.migrate.packing import packed_in
from selvedge.reconcile.sources import files_in_archive

FILES = {
    "20250101000000_a.sql": "select 'ä';",
    "seeds/users.sql": "-- env: test\nselect 2;",
    "2025-01-01-120000_b/metadata.toml": "run_in_transaction = false",
    "mongo/20250101000000_c.json": "[]",
}
BESIDE = {"README.md": "no migration", ".git/hidden.sql": "hidden", "seeds/.hidden.sql": "hidden"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, text in {**FILES, **BESIDE}.items():
        path = tmp_path / "migrations" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "migrations"


def test_what_is_packed_is_found_in_a_log(directory: Path) -> None:
    printed = list(lines(pack(str(directory))))
    body = packed_in("a warning before\n" + "\n".join(printed) + "\nand a line after it\n")
    assert body is not None
    assert files_in_archive(body) == FILES, "what is hidden or no migration is left out"
    assert pack(str(directory)) == pack(f"{directory}/"), "the same files are packed alike"


@pytest.mark.parametrize("cut", ["begin", "middle", "end", "byte"])
def test_a_log_that_is_not_whole_brings_nothing(directory: Path, cut: str) -> None:
    (directory / "1_long.sql").write_text("x".join(f"{number}" for number in range(9000)))
    printed = list(lines(pack(str(directory))))
    assert len(printed) > 3
    kept = {"begin": printed[1:], "middle": [*printed[:2], *printed[3:]], "end": printed[:-1]}.get(cut, printed)
    log = "\n".join(kept)
    if cut == "byte":
        log = log.replace(printed[1][:8], "AAAAAAAA", 1)
    assert packed_in(log) is None
    assert packed_in("\n".join(printed)) is not None


def test_what_cannot_be_taken_is_said_and_never_left_out(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(message: str, where: Path = directory) -> None:
        with pytest.raises(ReadingError) as raised:
            pack(str(where))
        assert message in str(raised.value)

    refused("cannot be read (No such file or directory): correct source.image.path", directory / "other")
    (directory / "empty").mkdir()
    refused("there is no file that ends in .sql or .json", directory / "empty")
    link = directory / "3_link.sql"
    link.symlink_to("/etc/passwd")
    refused("3_link.sql is a symbolic link: put the file itself into the image")
    link.unlink()
    os.mkfifo(link)
    refused("3_link.sql is no regular file")
    link.unlink()
    monkeypatch.setattr(image_reader, "LARGEST_PACKED", 30)
    refused("30 can be taken out of an image")
    monkeypatch.setattr(image_reader, "LARGEST", 60)
    refused("more than 10000 files, or 0 MiB")
    monkeypatch.setattr(image_reader, "LARGEST", 2**20)
    monkeypatch.setattr(image_reader, "MOST", 3)
    refused("more than 3 files")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("./1_a.sql", "1_a.sql"),
        ("a/../1_a.SQL", "1_a.SQL"),
        ("../1_a.sql", ""),
        ("a/../../1_a.sql", ""),
        ("/1_a.sql", ""),
        ("a/.b/1_a.sql", ""),
        ("a/metadata.toml", "a/metadata.toml"),
        ("a/other.toml", ""),
    ],
)
def test_names(name: str, file: str) -> None:
    assert file_name(name) == file


@pytest.mark.skipif(os.geteuid() != 0, reason="a root of its own, as a container has one, needs root")
def test_what_is_lent_runs_where_there_is_nothing_else(directory: Path) -> None:
    """In a root with nothing but the files, as a user without a name, it reads them, or says why not."""
    root = directory.parent
    work = root / "selvedge-work"
    work.mkdir()
    done = CliRunner().invoke(main, ["migrate", "lend-reader", str(work)])
    assert done.exit_code == 0, done.stderr
    subprocess.run(["chmod", "-R", "a+rX", root], check=True)

    def run(path: str) -> subprocess.CompletedProcess[str]:
        called = ["chroot", "--userspec=65532:65532", str(root), *command("/selvedge-work", path)]
        return subprocess.run(
            called,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": "/nowhere"},
            capture_output=True,
            text=True,
            check=False,
        )

    told = run("/migrations")
    assert told.returncode == 0, told.stderr
    body = packed_in(told.stdout)
    assert body is not None
    assert files_in_archive(body) == FILES
    told = run("/other")
    assert told.returncode == 1
    assert told.stderr == "/other cannot be read (No such file or directory): correct source.image.path\n"
    (directory / "20250101000000_a.sql").chmod(0o600)
    told = run("/migrations")
    assert (
        told.stderr == "20250101000000_a.sql cannot be read (Permission denied): let everybody read it (chmod a+rX)\n"
    )
