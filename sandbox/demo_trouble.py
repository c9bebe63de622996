"""The demo's steps on what goes wrong: changes by hand, bad manifests, a migration with a mistake."""

from __future__ import annotations

import time
from contextlib import contextmanager
from textwrap import dedent, indent
from typing import TYPE_CHECKING

from sandbox.demo_checks import DATABASE, MONGO_DATABASE, Checks
from sandbox.waiting import wait_until
from sandbox.wallet import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

_REPAIR_SECONDS = 45.0
_PASSES = 2

_BOTH_ENGINES = """\
apiVersion: selvedge.dev/v1alpha1
kind: DatabaseSchema
metadata: {name: confused, namespace: shop}
spec:
  serverRef: {name: main-postgres}
  database: confused
  postgres: {owner: fw_owner}
  mongodb: {collections: [{name: designs}]}
"""
_NO_SUCH_EXTENSION = """\
apiVersion: selvedge.dev/v1alpha1
kind: DatabaseSchema
metadata: {name: atlas, namespace: shop}
spec:
  serverRef: {name: main-postgres}
  database: atlas
  postgres:
    roles: [{name: atlas_owner}]
    owner: atlas_owner
    extensions: [{name: postgis}]
"""
_OUTLET = """\
apiVersion: selvedge.dev/v1alpha1
kind: DatabaseSchema
metadata: {name: outlet, namespace: shop}
spec:
  serverRef: {name: main-postgres}
  database: outlet
  postgres:
    owner: outlet_owner
    roles: [{name: outlet_owner}]
    schemas: [{name: outlet, owner: outlet_owner}]
---
apiVersion: selvedge.dev/v1alpha1
kind: MigrationRun
metadata: {name: outlet-first, namespace: shop}
spec:
  schemaRef: {name: outlet}
  action: Up
  source:
    inline:
      files:
        20251120090000_create_sales.sql: |
          -- migrate:up
          create table outlet.sales (id bigint primary key);
          create table outlet.prices (id bigint primary key);
          create index idx_sales_day on outlet.sales (day);
          create table outlet.returns (id bigint primary key);
          comment on table outlet.sales is 'what was sold';
          -- migrate:down
          drop table outlet.returns, outlet.prices, outlet.sales;
"""


class Trouble(Checks):
    """What the operator does about each, and what it says."""

    def run(self) -> None:
        """Every step; ends at the first that does not hold."""
        self._drift()
        self._still()
        self._bad_manifests()
        self._bad_migration()

    def _drift(self) -> None:
        title = "Break it by hand, and see it repaired"
        shows = "A grant is revoked, a schema given away and an index dropped behind the operator's back."
        with self.narrator.step(title, shows):
            before = self.wallet.metric("selvedge_drift_repaired_total")
            revoke = "REVOKE SELECT ON catalog.catalog_items FROM app_readonly"
            give = "ALTER SCHEMA avatar OWNER TO postgres"
            self.narrator.command(f'psql -c "{revoke}; {give}"')
            self.narrator.command("mongosh --eval \"db.designs.dropIndex('search')\"")
            with self.postgres.connect(DATABASE) as connection, self.sandbox.mongodb.client() as client:
                designs = client[MONGO_DATABASE]["designs"]
                with connection.transaction():
                    connection.execute(revoke)
                    connection.execute(give)
                designs.drop_index("search")
                broken = time.monotonic()
                checks = {
                    "SELECT on catalog.catalog_items is granted again": lambda: self.one(
                        connection, "SELECT has_table_privilege('app_readonly', 'catalog.catalog_items', 'SELECT')"
                    ),
                    "schema avatar belongs to fw_owner again": lambda: (
                        self.one(connection, "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname='avatar'")
                        == "fw_owner"
                    ),
                    "index search is there again": lambda: "search" in designs.index_information(),
                }
                for text, holds in checks.items():
                    wait_until(holds, f"not repaired in {_REPAIR_SECONDS:.0f} s: {text}", _REPAIR_SECONDS)
                    self.narrator.good(f"{text} ({time.monotonic() - broken:.1f} s)")
            self._drift_told(before)

    def _drift_told(self, before: float) -> None:
        wait_until(lambda: len(self.wallet.events("DriftCorrected")) >= 2, "no event tells of the repairs", 15)
        self.narrator.command(f"kubectl get events -n {NAMESPACE} --field-selector reason=DriftCorrected")
        self.narrator.output("\n".join(self.wallet.events("DriftCorrected")))
        repaired = self.wallet.metric("selvedge_drift_repaired_total") - before
        self.check(repaired == 3, f"selvedge_drift_repaired_total went up by {repaired:.0f}", "3 objects were broken")
        self.wallet.wait_ready("dbs")

    def _still(self) -> None:
        title = "Leave it alone"
        shows = (
            "A pass over what matches is free: the database writes nothing, the resource is not touched. "
            f"Two databases, looked at every {self.wallet.interval}: this waits for {_PASSES} looks, autovacuum off."
        )
        with self.narrator.step(title, shows), self._no_autovacuum():
            counter = {"kind": "DatabaseSchema", "result": "success"}
            before = self._footprint()
            passes = self.wallet.metric("selvedge_reconcile_total", **counter)
            wait_until(
                lambda: self.wallet.metric("selvedge_reconcile_total", **counter) >= passes + _PASSES,
                f"the operator made fewer than {_PASSES} passes in 60 s",
                60,
            )
            after = self._footprint()
            self.check(after[0] == before[0], f"{_PASSES} passes later the resources have the same resourceVersion")
            self.check(after[1] == before[1], "and Postgres has not begun a single transaction that writes")

    def _footprint(self) -> tuple[list[str], str]:
        """The resources' versions, and the number of the server's next writing transaction."""
        versions = [
            self.wallet.get("dbs", name)["metadata"]["resourceVersion"]
            for name in ("fashion-wallet", "fashion-wallet-main")
        ]
        with self.postgres.connect(DATABASE) as connection:
            return versions, self.one(connection, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text")

    @contextmanager
    def _no_autovacuum(self) -> Iterator[None]:
        """The server's own housekeeping writes too; without it, nobody but the operator could."""
        workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
        with self.postgres.connect() as admin:
            admin.execute("ALTER SYSTEM SET autovacuum = off")
            try:
                admin.execute("SELECT pg_reload_conf()")
                off = "SELECT current_setting('autovacuum')"
                wait_until(lambda: self.one(admin, off) == "off", "autovacuum could not be switched off", 10)
                wait_until(lambda: self.one(admin, workers) == 0, "an autovacuum worker does not end", 30)
                yield
            finally:
                admin.execute("ALTER SYSTEM RESET autovacuum")
                admin.execute("SELECT pg_reload_conf()")

    def _bad_manifests(self) -> None:
        title = "Apply bad manifests"
        shows = "What contradicts itself is refused at once; what only the server can know stands in the status."
        with self.narrator.step(title, shows):
            self.narrator.command("kubectl apply -f both-engines.yaml")
            refused = self.sandbox.kubectl("apply", "-f", "-", input=_BOTH_ENGINES, check=False)
            self.narrator.output(refused.stderr or refused.stdout)
            self.check(refused.returncode != 0, "the API server refused it", "it was taken")
            self.narrator.command("kubectl apply -f no-such-extension.yaml")
            self.wallet.apply(_NO_SUCH_EXTENSION)
            message = self.wallet.wait_reason("dbs", "atlas", "ExtensionNotAvailable")
            self.narrator.command(f"kubectl describe dbs atlas -n {NAMESPACE}   # its condition Ready")
            self.narrator.output(f"False  ExtensionNotAvailable: {message}")
            self.check("postgis" in message, "the message names what is missing", message)
            ready = self.wallet.condition("dbs", "fashion-wallet")
            self.check(ready["status"] == "True", "fashion-wallet on the same server is Ready all the while")

    def _bad_migration(self) -> None:
        title = "Run a migration with a mistake"
        shows = "Statement 3 of 5 fails: nothing of the file stays, and the message says which line to correct."
        with self.narrator.step(title, shows):
            self.narrator.command("kubectl apply -f outlet.yaml")
            self.narrator.output(self.wallet.apply(_OUTLET))
            self.narrator.say("   20251120090000_create_sales.sql:")
            self.narrator.output(indent(dedent(_OUTLET.partition(".sql: |\n")[2]), "   "))
            message = self.wallet.wait_reason("mig", "outlet-first", "StatementFailed")
            self.narrator.command(f"kubectl describe mig outlet-first -n {NAMESPACE}   # its condition Ready")
            self.narrator.output(f"False  StatementFailed: {message}")
            (row,) = self.wallet.get("mig", "outlet-first")["status"]["migrations"]
            error = row["error"]
            told = f"status.migrations has file, line ({error['line']}), statement and message as fields of their own"
            self.check(error["line"] == 4, told, "the mistake is in line 4")
            with self.postgres.connect("outlet") as connection:
                left = self.one(connection, "SELECT count(*) FROM pg_tables WHERE schemaname = 'outlet'")
            self.check(left == 0, "no table of the file is there: the transaction was rolled back", f"{left} tables")
