"""Compressed files of a ConfigMap: unpacked within a bound, and refused with their name where they are broken."""

from __future__ import annotations

import base64
import gzip

import pytest

from selvedge.core.errors import InvalidError
from selvedge.reconcile.sources import unpack

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
        (gzip.compress(b"\0" * 10_000_000), "more than 64 MiB"),
    ],
)
def test_what_is_broken_or_too_large_is_refused(content: bytes, message: str):
    with pytest.raises(InvalidError, match=rf"^1_a\.sql\.gz: .*{message}"):
        unpack("1_a.sql.gz", encoded(content), limit=1_000_000)


def test_what_is_no_base64_is_refused():
    with pytest.raises(InvalidError, match="cannot be unpacked"):
        unpack("1_a.sql.gz", "!!")
