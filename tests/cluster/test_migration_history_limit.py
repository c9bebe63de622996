"""``historyLimit``: which runs of autoApply go, and which never do."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import pytest

from tests.cluster.test_migrationrun_actions import shop, sources, start, versions
from tests.cluster.world import World, verdict, wait_for


def file(number: int, text: str) -> dict[str, str]:
    return {f"2025010{number}000000_step_{number}.sql": text}


def table(number: int) -> dict[str, str]:
    name = f"shared.t{number}"
    return file(number, f"-- migrate:up\nCREATE TABLE {name} ();\n-- migrate:down\nDROP TABLE {name};\n")


def runs(world: World, owner: str = "shop") -> dict[str, str]:
    """The phase of each run that autoApply made, by its name."""
    found = world.api.list("MigrationRun")
    return {
        run["metadata"]["name"]: str((run.get("status") or {}).get("phase"))
        for run in found
        if any(one["name"] == owner for one in run["metadata"].get("ownerReferences") or ())
    }


def second(world: World) -> None:
    """Wait for the next second: creation times, by which runs are told apart, have no smaller part."""
    before = int(time.time())
    wait_for(lambda: int(time.time()) > before)


def put(world: World, files: dict[str, str], known: set[str], phase: str) -> str:
    """Another state of the source; returns the name of its run, once that is in this phase."""
    second(world)
    sources(world, files)
    found: list[str] = []

    def there() -> bool:
        found[:] = [name for name, now in runs(world).items() if name not in known and now == phase]
        return bool(found)

    wait_for(there, 30, what=lambda: runs(world))
    known.add(found[0])
    return found[0]


def test_old_runs_go_and_what_is_needed_stays(world: World):
    known: set[str] = set()
    files = table(1)
    sources(world, files)
    shop(world, historyLimit=2)
    # another DatabaseSchema's runs are another's
    other = {"source": {"inline": {"files": {"20250101000000_a.sql": "SELECT 1;\n"}}}, "historyLimit": 1}
    owner = world.role("other_owner")
    declared = {"owner": owner, "roles": [{"name": owner}]}
    world.schema("other", database=f"{world.name}_other", postgres=declared, migrations=other)
    world.ready("DatabaseSchema", "shop")
    world.ready("DatabaseSchema", "other")
    [first] = runs(world)
    known.add(first)
    start(world, "by-hand")
    world.ready("MigrationRun", "by-hand")
    broken = put(world, {**files, **file(2, "SELECT 1 / 0;\n")}, known, "Failed")
    assert set(runs(world)) == {first, broken}, "two are kept"
    files |= table(2)
    second_run = put(world, files, known, "Succeeded")
    wait_for(lambda: set(runs(world)) == {broken, second_run}, what=lambda: runs(world))
    files |= table(3)
    third = put(world, files, known, "Succeeded")
    wait_for(lambda: set(runs(world)) == {second_run, third}, what=lambda: runs(world))
    assert verdict(world.ready("DatabaseSchema", "shop"))[0] == "True"
    assert world.api.get("MigrationRun", "by-hand") is not None, "what a person made is a person's to delete"
    assert len(runs(world, "other")) == 1
    assert len(versions(world)) == 3, "the database's history is whole"


@pytest.mark.long
def test_what_is_under_way_stays_however_many_come_after_it(world: World):
    known: set[str] = set()
    files = table(1)
    sources(world, files)
    shop(world, historyLimit=1)
    world.ready("DatabaseSchema", "shop")
    [first] = runs(world)
    known.add(first)
    with closing(world.endpoint.connect(world.name)) as holder, holder.transaction():
        holder.execute("LOCK TABLE shared.t1 IN ACCESS SHARE MODE")
        files |= file(4, "ALTER TABLE shared.t1 ADD note text;\n")
        held = put(world, files, known, "Running")
        files |= table(5)
        second(world)
        sources(world, files)
        wait_for(lambda: set(runs(world)) - known)
        [newest] = set(runs(world)) - known
        # and the last that did anything
        wait_for(lambda: set(runs(world)) == {first, held, newest}, what=lambda: runs(world))
        assert runs(world)[held] == "Running"
    wait_for(lambda: runs(world) == {newest: "Succeeded"}, 60, what=lambda: runs(world))
    assert len(versions(world)) == 3


def test_the_run_that_went_forward_again_stays(world: World):
    """Without it, a Down of long ago would look like the last word on this database."""
    known: set[str] = set()
    files = {**table(1), **table(2)}
    sources(world, files)
    shop(world, historyLimit=1)
    world.ready("DatabaseSchema", "shop")
    known |= set(runs(world))
    start(world, "back", action="Down", destructive="Allow")
    world.ready("MigrationRun", "back")
    second(world)
    # a person lets it go forward again, and then takes the target out of the declaration
    migrations: dict[str, Any] = {"historyLimit": 1, "targetVersion": "20250102000000"}
    shop(world, **migrations)
    world.ready("DatabaseSchema", "shop")
    assert len(versions(world)) == 2
    shop(world, historyLimit=1)
    world.ready("DatabaseSchema", "shop")
    for number in (3, 4):
        files |= table(number)
        put(world, files, known | set(runs(world)), "Succeeded")
        world.ready("DatabaseSchema", "shop")
    assert len(versions(world)) == 4
