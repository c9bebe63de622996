"""Manifests as text: read back as they were, also by what Kubernetes reads, and looking as people write them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from selvedge.cli.manifest_text import to_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=60)
VALUES = st.recursive(
    TEXTS | st.booleans() | st.integers(-(10**6), 10**6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=5), st.lists(TEXTS, max_size=3))
def test_it_is_read_back_as_it_was(document: dict[str, Any], notes: list[str]) -> None:
    assert yaml.safe_load(to_text([(document, notes)])) in (document, document or None)


@pytest.mark.parametrize(
    "text", ["y", "No", "on", "1e3", "0x1F", "0o17", "1_000", "12:30", "2026-01-01", "~", "null", ".inf", "-", "=", ""]
)
def test_what_a_dialect_reads_as_something_else_is_quoted(text: str) -> None:
    written = to_text([({"comment": text}, ())])
    assert written.removeprefix("comment: ").strip()[0] in "'\""
    assert yaml.safe_load(written) == {"comment": text}


@pytest.mark.parametrize("text", ["30s", "1MB", "app_readonly", "$user", "shared.users", "größe"])
def test_plain_words_are_not_quoted(text: str) -> None:
    assert to_text([({"value": text}, ())]) == f"value: {text}\n"


def test_it_looks_as_people_write_it() -> None:
    grants = [
        {"name": f"read-{n}", "privileges": ["SELECT"], "objects": {"tablesIn": ["a"]}, "to": ["r"]} for n in "ab"
    ]
    postgres = {"owner": "fw_owner", "settings": {"statement_timeout": "30s"}, "grants": grants}
    document = {"kind": "DatabaseSchema", "metadata": {"name": "x"}, "spec": {"postgres": postgres}}
    assert to_text([(document, ["not in here: " + "word " * 30]), (document, ())]).startswith(
        """\
# not in here: word word word word word word word word word word word word word word word word word word word word word
#   word word word word word word word word word
kind: DatabaseSchema
metadata:
  name: x
spec:
  postgres:
    owner: fw_owner
    settings: {statement_timeout: 30s}
    grants:
    - {name: read-a, privileges: [SELECT], objects: {tablesIn: [a]}, to: [r]}
    - {name: read-b, privileges: [SELECT], objects: {tablesIn: [a]}, to: [r]}
---
kind: DatabaseSchema
"""
    )


def test_a_note_cannot_end_its_comment() -> None:
    text = to_text([({"kind": "x"}, ["role a\nkind: evil", "role b\u2028kind: evil", "role c\x85kind: evil"])])
    assert yaml.safe_load(text) == {"kind": "x"}
