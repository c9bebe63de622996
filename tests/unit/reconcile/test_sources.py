"""Compressed files of a ConfigMap: unpacked within a bound, and refused with their name where they are broken."""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
from types import SimpleNamespace
from typing import Any, cast

import pytest

from selvedge.core.errors import InvalidError
from selvedge.reconcile.context import Context
from selvedge.reconcile.sources import _files_of, read_files, unpack
from tests.waiting import rounds_of_the_loop

TEXT = b"select 1;\n" * 1000


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_what_is_packed_comes_out_as_it_was():
    assert unpack("1_a.sql.gz", encoded(gzip.compress(TEXT))) == TEXT
    assert unpack("1_a.sql", encoded(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip at all", "cannot be unpacked"),
        (gzip.compress(TEXT)[:-9], "ends too early"),
        (gzip.compress(b"\0" * 10_000_000), "more than 8 MiB"),
    ],
    ids=["no gzip", "cut off", "a bomb"],  # the bytes hold the time, and would name the test differently each time
)
def test_what_is_broken_or_too_large_is_refused(content: bytes, message: str):
    with pytest.raises(InvalidError, match=rf"^1_a\.sql\.gz: .*{message}"):
        unpack("1_a.sql.gz", encoded(content), limit=1_000_000)


def test_what_is_no_base64_is_refused():
    with pytest.raises(InvalidError, match="cannot be unpacked"):
        unpack("1_a.sql.gz", "!!")


def archive(**files: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("3_link.sql")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return stream.getvalue()


def test_an_archive_brings_its_files_with_their_directories_and_nothing_else():
    packed = archive(
        **{"./1_a.sql": "select 1", "./seeds/users.sql": "select 2", "./.git/x.sql": "", "./README.md": ""}
    )
    name = "migrations.tar.gz"
    found = dict(_files_of(name, unpack(name, encoded(packed))))
    assert found == {"1_a.sql": b"select 1", "seeds/users.sql": b"select 2"}
    with pytest.raises(InvalidError, match=r"^migrations\.tar\.gz: the archive cannot be read"):
        dict(_files_of(name, unpack(name, encoded(gzip.compress(b"no archive" * 100)))))


async def test_an_archive_of_many_files_leaves_the_event_loop_to_others():
    packed = archive(**{f"{number}_a.sql": "select 1;" for number in range(1, 4001)})

    async def configmap(namespace: str, name: str) -> dict[str, Any]:
        return {"binaryData": {"migrations.tgz": encoded(packed)}}

    context = cast("Context", SimpleNamespace(kube=SimpleNamespace(configmap=configmap)))
    async with rounds_of_the_loop() as rounds:
        files = await read_files(context, "shop", {"configMaps": [{"name": "migrations"}]})
        let_in = rounds()
    assert len(files) == 4000
    assert let_in > 3, "one round is let in while it is unpacked alone"
