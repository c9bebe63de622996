"""The tree of `kubectl selvedge status`, from what the API server lists."""

from __future__ import annotations

from typing import Any

from selvedge.cli import tree


def obj(kind: str, name: str, reason: str = "Verified", *, spec: Any = None, **status: Any) -> dict[str, Any]:
    good = reason in ("Verified", "Reachable", "Applied")
    conditions = [{"type": "Ready", "status": str(good), "reason": reason, "message": f"{name}: {reason}"}]
    return {
        "kind": kind,
        "metadata": {"namespace": "shop", "name": name, "generation": 1},
        "spec": spec or {},
        "status": {"observedGeneration": 1, "conditions": conditions, **status},
    }


SERVER = obj("DatabaseServer", "main", "Reachable", spec={"engine": "Postgres"}, version="18.0", role="Primary")
ON_MAIN = {"serverRef": {"name": "main"}, "database": "shop"}
OF_SHOP = {"schemaRef": {"name": "shop"}}


def shown(*objects: dict[str, Any]) -> tuple[list[str], bool, list[dict[str, Any]]]:
    servers = tree.build(list(objects))
    return list(tree.lines(servers)), tree.all_ready(servers), servers


def test_what_is_well_is_one_line_each() -> None:
    schema = obj("DatabaseSchema", "shop", spec=ON_MAIN, objects={"ready": 61})
    user = obj("DatabaseUser", "app", spec=OF_SHOP, currentUsername="app_b")
    run = obj("MigrationRun", "first", "Applied", spec=OF_SHOP, progress="2/2", phase="Succeeded")
    lines, ready, (server,) = shown(SERVER, schema, user, run)
    assert lines == [
        "DatabaseServer shop/main (Postgres 18.0 Primary): Ready, Reachable",
        "  DatabaseSchema shop/shop (database shop, 61 objects): Ready, Verified",
        "    DatabaseUser shop/app (login app_b): Ready, Verified",
    ]
    assert ready
    assert server["schemas"][0]["migrationRuns"][0]["progress"] == "2/2"


def test_what_is_wrong_has_its_reason_below_it() -> None:
    server = obj(
        "DatabaseServer",
        "main",
        "InsufficientPrivileges",
        spec={"engine": "Postgres"},
        missingPrivileges=[{"statement": "ALTER ROLE selvedge CREATEROLE"}],
        replicas=[{"host": "ro:5432", "state": "Unreachable"}],
    )
    plan = {"digest": "sha256:0", "changes": 3, "risks": {"Additive": 2, "Destructive": 1}}
    missing = [{"kind": "grant", "name": f"g{n}", "state": "Waiting", "message": "no table"} for n in range(12)]
    schema = obj(
        "DatabaseSchema",
        "shop",
        "WaitingForApproval",
        spec=ON_MAIN,
        plan=plan,
        notReady=missing,
        nextRetryTime="2026-01-01T00:00:00Z",
        rowLevelSecurity=[{"table": "a.b", "probes": {"failed": 2}}, {"table": "a.c", "probes": {"failed": 0}}],
        advice=["use an index"],
    )
    schema["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    waits, again = "WaitingForApproval", "tried again at 2026-01-01T00:00:00Z"
    run = obj("MigrationRun", "bad", "StatementFailed", spec=OF_SHOP, progress="0/1")
    lines, ready, _ = shown(server, schema, run)
    assert not ready
    assert lines == [
        "DatabaseServer shop/main (Postgres): NotReady, InsufficientPrivileges: main: InsufficientPrivileges",
        "  to run on the server: ALTER ROLE selvedge CREATEROLE;",
        "  replica ro:5432: Unreachable",
        f"  DatabaseSchema shop/shop (database shop): NotReady, {waits}, being deleted: shop: {waits} ({again})",
        *(f"    grant g{n}: Waiting: no table" for n in range(10)),
        "    … and 2 more: -o json shows them",
        "    3 changes wait (2 Additive, 1 Destructive): `kubectl selvedge plan shop`",
        "    row-level security of a.b: 2 probes failed",
        "    MigrationRun shop/bad (0/1): NotReady, StatementFailed: bad: StatementFailed",
        "    advice: use an index",
    ]


def test_what_refers_to_nothing_is_not_left_out() -> None:
    lines, ready, _ = shown(obj("DatabaseUser", "app", "WaitingForSchema", spec=OF_SHOP))
    assert not ready
    assert lines == [
        "  DatabaseSchema shop/shop: Unknown, NotFound: it does not exist, or you may not read it",
        "    DatabaseUser shop/app: NotReady, WaitingForSchema: app: WaitingForSchema",
    ]
    lines, ready, _ = shown(obj("DatabaseSchema", "shop", "WaitingForServer", spec=ON_MAIN))
    assert not ready
    assert lines[0] == "DatabaseServer shop/main: Unknown, NotFound: it does not exist, or you may not read it"


def test_a_login_that_is_not_ready_is_told_by_the_exit_status_and_a_run_that_failed_once_is_not() -> None:
    schema = obj("DatabaseSchema", "shop", spec=ON_MAIN)
    _, ready, _ = shown(SERVER, schema, obj("MigrationRun", "first", "StatementFailed", spec=OF_SHOP))
    assert ready
    _, ready, _ = shown(SERVER, schema, obj("DatabaseUser", "app", "LoginRefused", spec=OF_SHOP))
    assert not ready


def test_an_old_status_says_nothing_of_the_new_generation() -> None:
    schema = obj("DatabaseSchema", "shop", spec=ON_MAIN)
    schema["metadata"]["generation"] = 2
    lines, ready, _ = shown(SERVER, schema)
    assert not ready
    assert lines[1].endswith(": Unknown, NotSeen: the operator has not looked at it yet")
