"""Who names another tenant's database or role, wherever a name can stand, gets nothing and changes nothing."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from tests.cluster.kube_api import Document
from tests.cluster.world import World, condition, verdict, wait_for
from tests.engines.fingerprint import Facts, changed, facts


def test_another_tenants_names_are_refused_wherever_they_stand(bare: World):
    world, mine, theirs = bare, bare.role("a"), bare.role("b")
    world.server()  # the administrator's, who declares the other tenant
    access = [{"databases": [f"{mine}*"], "rolePrefixes": [mine], "extensions": ["pgcrypto"]}]
    world.server(name="narrow", access=access)
    other = f"{theirs}_app"
    world.schema(
        "theirs",
        database=theirs,
        postgres={
            "roles": [{"name": other}, {"name": f"{theirs}_owner"}],
            "owner": f"{theirs}_owner",
            "schemas": [{"name": "shared"}],
            "grants": [{"name": "use", "privileges": ["USAGE"], "objects": {"schemas": ["shared"]}, "to": [other]}],
        },
    )
    world.ready("DatabaseSchema", "theirs")
    before = look(world, theirs)

    role = f"{mine}_{{}}"
    attempts: dict[str, dict[str, Any]] = {
        "database": {"database": theirs, "postgres": {}},
        "owner": {"postgres": {"owner": other}},
        "role": {"postgres": {"roles": [{"name": other, "comment": "taken"}]}},
        "renamed": {"postgres": {"roles": [{"name": role.format("r"), "renamedFrom": other}]}},
        "member": {"postgres": {"roles": [{"name": role.format("m"), "memberOf": [{"role": other}]}]}},
        "schema-owner": {"postgres": {"schemas": [{"name": "x", "owner": other}]}},
        "grantee": {
            "postgres": {
                "grants": [{"name": "g", "privileges": ["CONNECT"], "objects": {"database": True}, "to": [other]}]
            }
        },
        "creator": {
            "postgres": {
                "defaultPrivileges": [
                    {"name": "d", "creators": [other], "objectType": "Types", "privileges": ["USAGE"], "to": ["PUBLIC"]}
                ]
            }
        },
        "policy": {
            "postgres": {
                "rowLevelSecurity": [{"table": "x.t", "policies": [{"name": "p", "to": [other], "using": "true"}]}]
            }
        },
        "extension": {"postgres": {"extensions": [{"name": "dblink"}]}},
    }  # fmt: skip
    for number, (name, spec) in enumerate(attempts.items()):
        world.schema(name, server="narrow", adoption="Allow", **{"database": f"{mine}_{number}", **spec})

    def answers() -> dict[str, tuple[str, str, str]]:
        return {name: verdict(world.api.get("DatabaseSchema", name)) for name in attempts}

    wait_for(lambda: all(answer[0] for answer in answers().values()), what=answers)
    assert {name: answer[:2] for name, answer in answers().items()} == dict.fromkeys(
        attempts, ("False", "AccessDenied")
    )

    world.schema("own", server="narrow", database=mine, postgres={"roles": [{"name": role.format("app")}]})
    world.ready("DatabaseSchema", "own")
    users = {"as-them": {"username": other}, "with-theirs": {"roles": [{"role": other}]}}
    for name, spec in users.items():
        world.api.apply(user(name, mine, spec))
    for name in users:
        document = world.until("DatabaseUser", name, "False", "AccessDenied")
        assert condition(document, "Ready")["message"]
    assert changed(before, look(world, theirs)) == {}
    made = world.sql(f"SELECT rolname FROM pg_roles WHERE pg_has_role(oid, '{other}', 'MEMBER') AND NOT rolsuper",
                     database="postgres")  # fmt: skip
    assert {name for (name,) in made} == {other}


def user(name: str, mine: str, spec: dict[str, Any]) -> Document:
    """A DatabaseUser of the tenant."""
    whole = {"schemaRef": {"name": "own"}, "username": f"{mine}_{name.replace('-', '_')}", **spec}
    return {"kind": "DatabaseUser", "metadata": {"name": name}, "spec": whole}


def look(world: World, prefix: str) -> Facts:
    """Everything about access in the other tenant's database, and its roles."""
    with closing(world.endpoint.connect(prefix)) as connection:
        return facts(connection, prefix)
