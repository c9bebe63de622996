"""The difference as a property: made on a model of the server it leads to what was declared, and then is empty."""

from __future__ import annotations

import copy
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.postgres import changes as c
from selvedge.core.postgres.cluster_diff import ClaimBook, diff_cluster
from selvedge.core.postgres.model import (
    PUBLIC,
    AuthoritativeScope,
    Claim,
    CurrentRole,
    Desired,
    DesiredDatabase,
    DesiredExtension,
    DesiredGrant,
    DesiredRole,
    DesiredSchema,
    GrantTarget,
    Membership,
)
from tests.unit.core.postgres.model_server import CLUSTER, Server, held, run_pass

MEMBERS = {"u1": "shop/one", "u2": "shop/two"}
ROLES = ("r1", "r2", "r3")
SCHEMAS = ("s1", "s2")
TABLES = (("s1", "t1"), ("s1", "t2"), ("s2", "t1"))

settings_maps = st.dictionaries(st.sampled_from(["lock_timeout", "search_path"]), st.sampled_from(["1s", "a, b"]))
comments = st.none() | st.sampled_from(["", "text"])


@st.composite
def roles(draw: st.DrawFn, name: str) -> DesiredRole:
    # a role is only a member of those before it, or the server would refuse the circle
    above = ROLES[: ROLES.index(name)]
    members = draw(st.lists(st.sampled_from(above), unique=True)) if above else []
    memberships = tuple(Membership(role, inherit=draw(st.booleans()), set=draw(st.booleans())) for role in members)
    return DesiredRole(draw(st.sampled_from(list(MEMBERS))), name, draw(comments), draw(settings_maps), memberships)


targets = st.one_of(
    st.just((GrantTarget(database=True), ("CONNECT", "CREATE"))),
    st.sets(st.sampled_from(SCHEMAS), min_size=1).map(lambda s: (GrantTarget(schemas=tuple(s)), ("USAGE", "CREATE"))),
    st.sets(st.sampled_from(SCHEMAS), min_size=1).map(
        lambda s: (GrantTarget(tables_in=tuple(s)), ("SELECT", "INSERT", "ALL"))
    ),
    st.sets(st.sampled_from(TABLES), min_size=1).map(
        lambda t: (GrantTarget(tables=tuple(t)), ("SELECT", "INSERT", "DELETE"))
    ),
)


@st.composite
def grants(draw: st.DrawFn, name: str) -> DesiredGrant:
    target, privileges = draw(targets)
    return DesiredGrant(
        draw(st.sampled_from(list(MEMBERS))),
        name,
        frozenset(draw(st.sets(st.sampled_from(privileges), min_size=1))),
        target,
        tuple(draw(st.sets(st.sampled_from((*ROLES, PUBLIC)), min_size=1))),
        draw(st.sampled_from([False, False, False, True])),
    )


@st.composite
def declarations(draw: st.DrawFn) -> Desired:
    names = draw(st.sets(st.sampled_from(ROLES)))
    found_roles = [draw(roles(name)) for name in ROLES if name in names]
    schemas = [DesiredSchema("u1", name, None, draw(comments)) for name in draw(st.sets(st.sampled_from(SCHEMAS)))]
    extensions = [DesiredExtension("u1", name) for name in draw(st.sets(st.sampled_from(["pgcrypto", "citext"])))]
    scopes = [AuthoritativeScope("u1", frozenset(names), frozenset(SCHEMAS))] if draw(st.booleans()) else []
    database = DesiredDatabase("u1", "shop", None, draw(settings_maps))
    found_grants = [draw(grants(f"g{number}")) for number in range(draw(st.integers(0, 4)))]
    return Desired(database, tuple(extensions), tuple(schemas), tuple(found_roles), tuple(found_grants), tuple(scopes))


def server(version: int = 160000) -> Server:
    one = Server(version)
    for schema in SCHEMAS:
        one.schemas[schema] = ("admin", None)
        one.add("schema", "", schema)
    for schema, table in TABLES:
        one.add("table", schema, table)
    one.add("partition", "s1", "p1")
    return one


def state(one: Server) -> object:
    acl = {key: {g: p for g, p in by.items() if p} for key, by in one.acl.items()}
    return (one.roles, one.owner, one.settings, one.schemas, one.extensions, acl, one.databases)


@given(declarations(), st.sampled_from([150000, 160000, 180000]))
def test_a_pass_leads_to_the_declaration_and_the_next_is_empty(desired: Desired, version: int) -> None:
    one = server(version)
    _, _ = run_pass(one, desired, MEMBERS)
    for role in desired.roles:
        live = one.roles[role.name]
        assert live.comment in (role.comment, None)
        assert dict(live.settings) == dict(role.settings)
        present = {m.role for m in role.memberships} & one.roles.keys()
        assert live.memberships.keys() == present
    for schema in desired.schemas:
        assert schema.name in one.schemas
    for extension in desired.extensions:
        assert extension.name in one.extensions
    again, _ = run_pass(one, desired, MEMBERS)
    assert again == [], "the second pass finds nothing"


@given(declarations(), declarations(), st.booleans())
def test_what_was_declared_before_leaves_no_access(before: Desired, after: Desired, prune: bool) -> None:
    """By way of another declaration the server comes to the same roles and privileges as directly."""
    straight, around = server(), server()
    run_pass(straight, after, MEMBERS, prune=prune)
    run_pass(around, before, MEMBERS, prune=prune)
    run_pass(around, after, MEMBERS, prune=prune)
    again, _ = run_pass(around, after, MEMBERS, prune=prune)
    assert again == []
    assert around.roles.keys() == straight.roles.keys()
    for name, role in straight.roles.items():
        assert around.roles[name].memberships == role.memberships
        assert around.roles[name].settings == role.settings
    absent = {g.name for g in before.grants if g.absent}
    if not absent:
        for key, acl in straight.acl.items():
            for grantee in ROLES:
                assert around.acl[key].get(grantee, set()) == acl.get(grantee, set()), (key, grantee)


@given(declarations(), st.randoms())
def test_the_order_of_the_manifest_does_not_matter(desired: Desired, random: Random) -> None:
    def shuffled(items: tuple[object, ...]) -> tuple[object, ...]:
        listed = list(items)
        random.shuffle(listed)
        return tuple(listed)

    other = replace(
        desired,
        roles=shuffled(desired.roles),
        schemas=shuffled(desired.schemas),
        extensions=shuffled(desired.extensions),
        grants=shuffled(desired.grants),
    )
    a, b = server(), server()
    run_pass(a, desired, MEMBERS)
    run_pass(b, other, MEMBERS)
    assert state(a) == state(b)


@given(declarations())
def test_what_nobody_declared_is_not_touched(desired: Desired) -> None:
    one = server()
    one.roles["stranger"] = CurrentRole("stranger", "a person's", {"lock_timeout": "9s"}, {})
    one.schemas["private"] = ("stranger", "theirs")
    one.add("schema", "", "private", "stranger")
    one.acl["table", "s1", "t1"]["stranger"] = {"SELECT", "DELETE"}
    one.extensions["plpgsql"] = ("1.0", "pg_catalog")
    before = copy.deepcopy((one.roles["stranger"], one.schemas["private"], one.extensions["plpgsql"]))
    run_pass(one, desired, MEMBERS)
    assert (one.roles["stranger"], one.schemas["private"], one.extensions["plpgsql"]) == before
    assert held(one, "table", "s1", "t1", "stranger") == {"SELECT", "DELETE"}


def test_an_authoritative_scope_ends_at_its_roles_and_schemas() -> None:
    one = server()
    for role in ("r1", "r2"):
        one.roles[role] = CurrentRole(role)
        one.acl["table", "s1", "t1"][role] = {"SELECT", "DELETE"}
        one.acl["table", "s2", "t1"][role] = {"DELETE"}
        one.acl["partition", "s1", "p1"][role] = {"SELECT"}
    grant = DesiredGrant("u1", "g", frozenset({"SELECT"}), GrantTarget(tables_in=("s1",)), ("r1",))
    desired = Desired(
        DesiredDatabase("u1", "shop"),
        schemas=(DesiredSchema("u1", "s1"),),
        roles=(DesiredRole("u1", "r1"),),
        grants=(grant,),
        authoritative=(AuthoritativeScope("u1", frozenset({"r1"}), frozenset({"s1"})),),
    )
    run_pass(one, desired, MEMBERS)
    assert held(one, "table", "s1", "t1", "r1") == {"SELECT"}
    assert held(one, "table", "s1", "t2", "r1") == {"SELECT"}
    assert held(one, "partition", "s1", "p1", "r1") == set(), "tablesIn leaves partitions out"
    assert held(one, "table", "s2", "t1", "r1") == {"DELETE"}
    assert held(one, "table", "s1", "t1", "r2") == {"SELECT", "DELETE"}


def book(claims: dict[str, Claim], alive: bool = True) -> ClaimBook:
    return ClaimBook(claims, CLUSTER, MEMBERS, lambda _: alive)


def problems_of(claims: dict[str, Claim], *, adopt: bool, alive: bool = True, exists: bool = True) -> list[str]:
    desired = Desired(DesiredDatabase("u1", "shop"), roles=(DesiredRole("u1", "r1"),))
    claims = {"database:shop": Claim("database:shop", CLUSTER, "shop/one", "u1"), **claims}
    roles = {"r1": CurrentRole("r1")} if exists else {}
    may = dict.fromkeys(MEMBERS, adopt)
    changes, problems = diff_cluster(desired, roles, ["shop"], book(claims, alive), may, 160000)
    assert not (problems and [x for x in changes if not isinstance(x, c.WriteClaims)])
    return [str(problem.status.reason.value) for problem in problems]


def test_who_may_have_a_role() -> None:
    def claim(cluster: str, resource: str) -> dict[str, Claim]:
        return {"role:r1": Claim("role:r1", cluster, resource, "x")}

    assert problems_of({}, adopt=False, exists=False) == []
    assert problems_of({}, adopt=False) == ["AdoptionRequired"]
    assert problems_of({}, adopt=True) == []
    assert problems_of(claim(CLUSTER, "shop/one"), adopt=False) == [], "made anew under another uid, it is the same"
    assert problems_of(claim(CLUSTER, "shop/other"), adopt=True) == ["Conflict"]
    assert problems_of(claim(CLUSTER, "shop/other"), adopt=True, alive=False) == []
    assert problems_of(claim(CLUSTER, "shop/other"), adopt=False, alive=False) == ["AdoptionRequired"]
    assert problems_of(claim("elsewhere", "shop/one"), adopt=True, alive=False) == ["Conflict"]


def test_only_a_role_that_was_made_is_dropped() -> None:
    for created in (True, False):
        claims = {
            "database:shop": Claim("database:shop", CLUSTER, "shop/one", "u1"),
            "role:r1": Claim("role:r1", CLUSTER, "shop/one", "u1", {"created": created, "settings": []}),
        }
        live = {"r1": CurrentRole("r1", memberships={"r2": Membership("r2")}), "r2": CurrentRole("r2")}
        desired = Desired(DesiredDatabase("u1", "shop"))
        changes, _ = diff_cluster(desired, live, ["shop"], book(claims), dict.fromkeys(MEMBERS, False), 160000)
        kinds = [type(change) for change in changes if not isinstance(change, c.WriteClaims)]
        assert kinds == [c.RevokeRole, *([c.DropRole] if created else []), c.DropClaims]
