"""A directory of migrations: what is read, and the exact words for each kind of bad input."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from selvedge.core.errors import InvalidError
from selvedge.core.reasons import Reason
from selvedge.migrate import load
from selvedge.migrate.files import load_directory, read_directory

ROOT = Path(__file__).resolve().parents[3]


def test_every_layout_in_one_directory(tmp_path: Path) -> None:
    for name, text in {
        "0001_pair.up.sql": "SELECT 1;",
        "0001_pair.down.sql": "SELECT 2;",
        "00002_goose.sql": "-- +goose Up\nSELECT 3;",
        "20240101120000_markers.sql": "-- migrate:up\nSELECT 4;",
        "2024-01-02-120000_diesel/up.sql": "SELECT 5;",
        "2024-01-02-120000_diesel/metadata.toml": "run_in_transaction = false",
        "R__views.sql": "SELECT 6;",
        "seeds/users.sql": "-- env: test\nSELECT 7;",
        "seeds/data.csv": "1,2",
        "README.md": "",
        "kustomization.yaml": "",
        ".hidden_1.sql": "broken",
        "testdata/1_fixture.sql": "SELECT 8;",
        "docs/notes.md": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [one.name for one in load_directory(tmp_path)] == ["pair", "goose", "markers", "diesel", "views", "users"]
    assert not load_directory(tmp_path)[3].script.transactional
    assert read_directory(tmp_path).ignored == ("testdata",)


def test_a_mounted_config_map_is_read_once(tmp_path: Path) -> None:
    data = tmp_path / "..2025_01_01"
    data.mkdir()
    (data / "1_a.sql").write_text("SELECT 1;")
    (tmp_path / "..data").symlink_to(data.name)
    (tmp_path / "1_a.sql").symlink_to("..data/1_a.sql")
    assert [one.file for one in load_directory(tmp_path)] == ["1_a.sql"]


def test_our_own() -> None:
    assert len(load_directory(ROOT / "migrations" / "postgres")) > 15
    assert len(load_directory(ROOT / "migrations" / "mongodb", "MongoDB")) > 3


def test_byte_order_mark_and_line_ends(tmp_path: Path) -> None:
    for name, content in {
        "1_a.sql": b"\xef\xbb\xbfSELECT 1;\r\nSELECT '\xc3\xa4';\r\n",
        "2_b.sql": b"SELECT 1;\nSELECT '\xc3\xa4';",
    }.items():
        (tmp_path / name).write_bytes(content)
    one, other = load_directory(tmp_path)
    assert one.checksum == other.checksum
    assert [(each.text, each.line) for each in one.script.statements] == [("SELECT 1", 1), ("SELECT 'ä'", 2)]


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n", "\r\n", "\r\n\r\n", "\r", "\n\r", " \n"])
def test_a_directory_and_a_config_map_have_one_checksum(tmp_path: Path, end: str) -> None:
    content = f"SELECT 1;{end}"
    (tmp_path / "1_a.sql").write_bytes(content.encode())
    assert load_directory(tmp_path)[0].checksum == load({"1_a.sql": content})[0].checksum


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


BAD: dict[str, tuple[str, bytes | Callable[[Path], object], str]] = {
    "binary": (
        "1_a.sql",
        b"\x7fELF\0\1",
        "1_a.sql: the file is binary; a migration is UTF-8 text: remove the file, or save it as text",
    ),
    "UTF-16": ("1_a.sql", "SELECT 1;".encode("utf-16"), "1_a.sql: the file is UTF-16; save it as UTF-8"),
    "0 bytes": (
        "1_a.sql",
        b"",
        "1_a.sql: the file is empty, there is nothing to run; write its statements, or remove the file",
    ),
    "Latin-1": (
        "1_a.sql",
        b"SELECT 1;\nSELECT 'caf\xe9';\n",
        "1_a.sql, line 2: byte 0xe9 is not UTF-8; save the file as UTF-8 (from Latin-1: iconv -f latin1 -t utf-8)",
    ),
    "unterminated": ("1_a.sql", b"SELECT 1;\n\nSELECT 'a;\n", "1_a.sql, line 3: a string is not closed; add the '"),
    "overflow": (
        "123456789012345678901_a.sql",
        b"SELECT 1;",
        "123456789012345678901_a.sql: the version has 21 digits, 20 are the most; shorten it",
    ),
    "a directory": ("1_a.sql", Path.mkdir, "1_a.sql: it is named like a migration and is a directory; rename it"),
    "Diesel's as a file": (
        "2024-01-01-120000_a",
        b"SELECT 1;",
        "2024-01-01-120000_a: it is named like a migration's directory and is a file; add .sql, or move it",
    ),
    "Diesel's without up": (
        "2024-01-01-120000_a",
        Path.mkdir,
        "2024-01-01-120000_a: a migration's directory without up.sql; add it, or remove the directory",
    ),
    "a link to nowhere": (
        "1_a.sql",
        lambda path: path.symlink_to("gone"),
        "1_a.sql: the link leads nowhere, or the file just went; restore it, or remove it",
    ),
    "a link to itself": (
        "1_a.sql",
        lambda path: path.symlink_to("1_a.sql"),
        "1_a.sql: the file cannot be read: Too many levels of symbolic links; correct it, or remove it",
    ),
    "a pipe": ("1_a.sql", a_fifo, "1_a.sql: it is no regular file; put the migration's text into one"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(tmp_path: Path, name: str, content: bytes | Callable[[Path], object], message: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        content(tmp_path / name)
    with pytest.raises(InvalidError) as error:
        load_directory(tmp_path)[0].check()
    assert str(error.value) == message
    assert error.value.reason is Reason.INVALID_MIGRATION


BAD_JSON: dict[str, tuple[bytes, str]] = {
    "binary": (b'[{"ping": 1}]\0', BAD["binary"][2].replace(".sql", ".json")),
    "UTF-16": ('[{"ping": 1}]'.encode("utf-16"), "1_a.json: the file is UTF-16; save it as UTF-8"),
    "0 bytes": (
        b"",
        "1_a.json, line 1: the file is empty, there is nothing to run; write its commands, or remove the file",
    ),
    "blank": (
        b" \n\n",
        "1_a.json, line 1: the file is empty, there is nothing to run; write its commands, or remove the file",
    ),
    "Latin-1": (
        b'[\n{"create": "caf\xe9"}]',
        "1_a.json, line 2: byte 0xe9 is not UTF-8; save the file as UTF-8 (from Latin-1: iconv -f latin1 -t utf-8)",
    ),
    "behind a line of ten megabytes": (
        b'[{"insert": "a", "documents": [{"t": "' + b"x" * 10_000_000 + b'"}]},\r\n{"create": }]',
        "1_a.json, line 2: not JSON: expecting value",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD_JSON.values(), ids=BAD_JSON.keys())
def test_bad_input_for_mongodb(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "1_a.json").write_bytes(content)
    with pytest.raises(InvalidError) as error:
        load_directory(tmp_path, "MongoDB")[0].check()
    assert str(error.value) == message
    assert error.value.reason is Reason.INVALID_MIGRATION


def test_json_as_editors_leave_it(tmp_path: Path) -> None:
    text = '{"up": [{"create": "a"},\n{"create": "ä"}],\n"down": [{"drop": "a"}]}\n'
    (tmp_path / "1_a.json").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    (tmp_path / "2_b.json").write_bytes(text.encode())
    one, other = load_directory(tmp_path, "MongoDB")
    assert (one.checksum, one.down_checksum) == (other.checksum, other.down_checksum)
    assert [(command.document, command.line) for command in one.commands] == [
        ({"create": "a"}, 1),
        ({"create": "ä"}, 2),
    ]
    assert one.down_line == other.down_line == 3


def test_a_line_of_ten_megabytes(tmp_path: Path) -> None:
    (tmp_path / "1_a.sql").write_text("SELECT '" + "x" * 10_000_000 + "';\nSELECT 'y\n")
    with pytest.raises(InvalidError, match=r"^1_a\.sql, line 2: a string is not closed; add the '$"):
        load_directory(tmp_path)[0].check()


def test_a_directory_that_is_a_file_or_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "1_a.sql"
    file.write_text("SELECT 1;")
    for path, why in (
        (file, "it is a file and no directory; name the directory that holds the migrations"),
        (tmp_path / "none", "there is no such directory; name the one that holds the migrations"),
    ):
        with pytest.raises(InvalidError) as error:
            load_directory(path)
        assert str(error.value) == f"{path}: {why}"


def test_what_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        file = directory / "1_a.sql"
        file.write_text("SELECT 1;")
        file.chmod(0)
        with pytest.raises(InvalidError) as error, without_rights():
            load_directory(directory)
        assert str(error.value) == "1_a.sql: the file cannot be read: permission denied; allow it to this user"
        directory.chmod(0)
        with pytest.raises(InvalidError) as error, without_rights():
            load_directory(directory)
        assert str(error.value) == f"{name}: the directory cannot be read: permission denied; allow it to this user"


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """As somebody else where we are the administrator, who may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
