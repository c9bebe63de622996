"""What squawk says of a plan stands beside our own rules, through a real operator process."""

from __future__ import annotations

from tests.cluster.test_migrationrun_actions import shop, sources, start
from tests.cluster.world import World


def test_a_plan_is_shown_with_what_squawk_says(world: World):
    """Of the table that is there, and not of the one that the plan makes; where it dies, one line says so."""
    orders = {"20250101000000_orders.sql": "CREATE TABLE shared.orders (id bigint, day date);\n"}
    sources(world, orders)
    shop(world)
    world.ready("DatabaseSchema", "shop")
    late = (
        "CREATE INDEX orders_day ON shared.orders (day);\n"
        "CREATE TABLE shared.returns (id bigint, day date);\n"
        "CREATE INDEX idx_returns_day ON shared.returns (day);\n"
    )
    files = {**orders, "20250102000000_late.sql": late}
    start(world, "look", action="Plan", source={"inline": {"files": files}})
    concurrently = (
        "warning: 20250102000000_late.sql, line 1: During normal index creation, table updates are blocked, but reads "
        "are still allowed; Use `concurrently` to avoid blocking writes (require-concurrent-index-creation)"
    )
    name = (
        "advice: 20250102000000_late.sql, line 1: index orders_day of table orders is named otherwise; "
        "name it idx_orders_{columns} (naming)"
    )
    assert world.ready("MigrationRun", "look")["status"]["advice"] == [concurrently, name]

    deep = f"SELECT {'(' * 30_000}1{')' * 30_000};\n"
    start(world, "deep", action="Plan", source={"inline": {"files": {**orders, "20250102000000_deep.sql": deep}}})
    failed = (
        "advice: squawk, line 0: squawk failed on 20250102000000_deep.sql: stack overflow; "
        "run it by hand on the file to see why (squawk)"
    )
    assert world.ready("MigrationRun", "deep")["status"]["advice"] == [failed]
