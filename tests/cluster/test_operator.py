"""The thinnest path through all layers: one server, one database, one role."""

from __future__ import annotations

import json

import pytest

from tests.cluster.world import World


@pytest.mark.usefixtures("postgres")
def test_a_declared_database_becomes_real(world: World):
    role, owner = world.role("app"), world.role("owner")
    world.schema(
        "shop",
        postgres={
            "owner": owner,
            "schemas": [{"name": "shared", "comment": "of all"}],
            "roles": [{"name": owner}, {"name": role, "settings": {"statement_timeout": "5s"}}],
            "extensions": [{"name": "pgcrypto"}],
            "grants": [
                {"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [role]},
                {"name": "closed", "privileges": ["CREATE"], "objects": {"schemas": ["public"]}, "to": ["PUBLIC"],
                 "ensure": "Absent"},
            ],
        },
    )  # fmt: skip
    found = world.ready("DatabaseSchema", "shop")
    server = world.ready("DatabaseServer", "main")
    assert server["status"]["role"] == "Primary"
    assert server["status"]["version"].startswith(world.endpoint.version)
    assert found["status"]["conditions"][0]["reason"] == "Verified"
    assert found["status"]["objects"] == {"ready": 7, "waiting": 0, "failed": 0}
    assert world.ask(f"SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{world.name}'") == owner
    assert world.ask("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'shared'") == owner
    assert world.ask(f"SELECT has_schema_privilege('{role}', 'shared', 'USAGE')") is True
    assert world.ask(f"SELECT rolconfig FROM pg_roles WHERE rolname = '{role}'") == ["statement_timeout=5s"]
    assert world.ask("SELECT count(*) FROM pg_extension WHERE extname = 'pgcrypto'") == 1


def test_it_stops_when_told_and_leaves_the_lease(world: World):
    assert world.operator.stop() == 0
    lease = world.api.get("Lease", world.operator.lease_name)
    assert not lease["spec"].get("holderIdentity")
    for line in world.operator.logs().splitlines():
        json.loads(line)  # every line is one document
    world.operator.start()
    world.ready("DatabaseServer", "main")
