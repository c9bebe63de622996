"""What people and machines see of a result."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from selvedge.cli.output import Report, SchemaReport, in_our_words, plain, show
from selvedge.core.reasons import Reason
from selvedge.core.rowcount import RowCount
from selvedge.core.unit import ChangeSummary, MemberResult, ObjectRef, ObjectState, ObjectStatus, Risk

LONG = "GRANT SELECT ON " + ", ".join(f'"shared"."table_{n}"' for n in range(100)) + ' TO "app"'
CHANGES = (
    ChangeSummary(ObjectRef("schema", "shared"), Risk.ADDITIVE, 'CREATE SCHEMA "shared"'),
    ChangeSummary(ObjectRef("grant", "read"), Risk.DESTRUCTIVE, LONG),
)
WAITING = ObjectStatus(
    ObjectRef("grant", "late"), ObjectState.WAITING, Reason.WAITING_FOR_OBJECTS, "table a.b is missing"
)
FAILED = ObjectStatus(ObjectRef("role", "app"), ObjectState.CONFLICT, Reason.CONFLICT, "claimed by shop/other")
EQUAL = MemberResult(ready=5, provisioned=True)
DIGEST = "sha256:" + "a" * 64


def report(command: str, *results: MemberResult, errors: tuple[str, ...] = ()) -> Report:
    return Report(command, tuple(SchemaReport(f"db{n}", "shop", "fw", r) for n, r in enumerate(results)), errors)


@pytest.mark.parametrize(
    ("command", "results", "status"),
    [
        ("plan", [EQUAL], 0),
        ("plan", [EQUAL, MemberResult(provisioned=True, pending=CHANGES)], 2),
        ("plan", [MemberResult(provisioned=True, problems=(WAITING,))], 0),
        ("plan", [MemberResult(provisioned=True, problems=(FAILED,))], 2),
        ("verify", [EQUAL], 0),
        ("verify", [MemberResult(provisioned=True, problems=(WAITING,))], 2),
        ("verify", [MemberResult(provisioned=False)], 2),
        ("apply", [MemberResult(provisioned=True, applied=CHANGES)], 0),
        ("apply", [MemberResult(provisioned=True, pending=CHANGES[1:])], 2),
    ],
)
def test_exit_status(command: str, results: list[MemberResult], status: int) -> None:
    assert report(command, *results).exit_status == status
    assert report(command, *results, errors=("database x: no",)).exit_status == 1


def test_in_a_pipe_nothing_is_cut_and_each_change_is_one_line() -> None:
    found = MemberResult(pending=CHANGES, problems=(WAITING,), provisioned=True, digest=DIGEST, advice=("look",))
    assert list(plain(report("plan", found, EQUAL))) == [
        "db0 (DatabaseSchema shop/fw): 2 changes to make, 1 object not ready",
        '  Additive           schema  shared  CREATE SCHEMA "shared"',
        f"  Destructive        grant   read    {LONG}",
        "  WaitingForObjects  grant   late    table a.b is missing",
        f"  digest: {DIGEST}",
        "  advice: look",
        "db1 (DatabaseSchema shop/fw): equal, 5 objects",
    ]


def test_what_is_lost_stands_before_the_statement_and_for_machines_apart(capsys: pytest.CaptureFixture[str]) -> None:
    change = replace(CHANGES[1], before="kept for ever", rows=RowCount(1204))
    found = report("plan", MemberResult(pending=(change,), digest=DIGEST))
    assert f"loses 1,204 rows (counted): {LONG}" in "\n".join(plain(found))
    show(found, "json")
    (shown,) = json.loads(capsys.readouterr().out)["schemas"][0]["changes"]
    assert shown["before"] == "kept for ever"
    assert shown["rows"] == {"count": 1204, "counted": "Exact", "unit": "row", "text": "1,204 rows (counted)"}


def test_names_from_a_server_move_no_cursor() -> None:
    statement = "COMMENT ON SCHEMA a IS 'two\nlines \x1b[2J'"
    change = ChangeSummary(ObjectRef("schema", "a\u202eb"), Risk.ADDITIVE, statement)
    text = "\n".join(plain(report("plan", MemberResult(pending=(change,)))))
    assert "IS 'two lines \\x1b[2J'" in text
    assert "a\\u202eb" in text


def test_machines_get_the_same_keys_always(capsys: pytest.CaptureFixture[str]) -> None:
    full = report("apply", MemberResult(pending=CHANGES, applied=CHANGES, problems=(FAILED,), digest=DIGEST), EQUAL)
    show(full, "json")
    document = json.loads(capsys.readouterr().out)
    show(full, "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == document
    first, second = document["schemas"]
    assert list(document) == ["command", "equal", "schemas", "errors"]
    keys = ["database", "namespace", "name", "equal", "digest", "changes", "applied", "problems", "advice"]
    assert list(first) == list(second) == keys
    change = {"kind": "grant", "name": "read", "risk": "Destructive", "statement": LONG, "before": "", "rows": None}
    assert first["changes"][1] == change
    assert first["problems"] == [
        {"kind": "role", "name": "app", "state": "Conflict", "reason": "Conflict", "message": "claimed by shop/other"}
    ]


@pytest.mark.parametrize(
    ("is_postgres", "theirs", "ours"),
    [
        (
            True,
            "does not offer TLS: enable it there, or set spec.tls.mode to Disable",
            "or write sslmode=disable in --url",
        ),
        (False, "does not speak TLS: switch it on, or set spec.tls.mode to Disable", "or write tls=false in --url"),
        (True, "check the CA in spec.tls.caSecretRef and the host name", "check the CA in sslrootcert in --url and"),
        (False, "a timeout; tried again by itself", "a timeout; run the command again"),
        (True, "name one in spec.tls.clientCertificateSecretRef", "name one in sslcert and sslkey in --url"),
        (False, "name one in spec.tls.clientCertificateSecretRef; else", "in tlsCertificateKeyFile in --url; else"),
    ],
)
def test_engines_messages_name_options(is_postgres: bool, theirs: str, ours: str) -> None:
    text = in_our_words(theirs, postgres=is_postgres)
    assert ours in text
    assert "spec." not in text
