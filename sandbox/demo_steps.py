"""The steps of the demo. Each is a sentence, what is done, and a check that raises SandboxError if it does not hold."""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from pymongo.errors import WriteError

from sandbox.errors import SandboxError
from sandbox.wallet import NAMESPACE, POSTGRES, ROOT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.narrator import Narrator
    from sandbox.wallet import Wallet

_DATABASE, _MONGO_DATABASE = "fashion_wallet", "fashion-wallet-main"
_SEEDS = ROOT / "migrations" / "postgres" / "seeds" / "20241120000000_development_data.sql"
_REPAIR_SECONDS = 45.0
_DOCUMENT_REFUSED = 121
_PASSES = 4

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


class Steps:
    """All steps in their order, on one deployment."""

    def __init__(self, wallet: Wallet, narrator: Narrator) -> None:
        self.wallet = wallet
        self.narrator = narrator
        self.sandbox = wallet.sandbox
        self.postgres = self.sandbox.postgres[POSTGRES]

    def run(self) -> None:
        """Every step; ends at the first that does not hold."""
        self._operator()
        self._apply()
        self._ready()
        self._inside_postgres()
        self._inside_mongodb()
        self._drift()
        self._still()
        self._bad_manifests()
        self._bad_migration()
        self._delete()

    def _operator(self) -> None:
        title = "Install the custom resources and start the operator"
        with self.narrator.step(title, "Three kinds are added to Kubernetes, and one process acts on them."):
            self.narrator.command("kubectl apply --server-side -f crds/")
            self.wallet.install()
            self.narrator.command("selvedge run")
            self.wallet.start_operator()
            self.narrator.good(f"the operator leads and answers on {self.wallet.url} (/health, /metrics)")

    def _apply(self) -> None:
        title = "Apply Fashion Wallet"
        shows = "Secrets, migrations and declarations go in at once; nothing has to be ordered by hand."
        with self.narrator.step(title, shows):
            self.wallet.secrets()
            self.narrator.good("Secrets with the administrators' logins and the servers' CA")
            for engine in ("postgres", "mongodb"):
                self.narrator.command(f"kubectl apply -k migrations/{engine}")
            self.wallet.migrations()
            self.narrator.command(
                f"kubectl apply -f examples/fashion-wallet/   # ports put in, and interval: {self.wallet.interval} "
                "instead of 5m, so that repairs are quick to see"
            )
            for _, manifest in self.wallet.manifests():
                self.narrator.output(self.wallet.apply(manifest))

    def _ready(self) -> None:
        title = "Wait until everything is Ready"
        shows = "Ready means that both databases were inspected after the last change and equal the declaration."
        with self.narrator.step(title, shows):
            self.narrator.command(f"kubectl wait --for=condition=Ready dbsrv,dbs,mig --all -n {NAMESPACE}")
            self.wallet.wait_ready("dbsrv,dbs,mig")
            self._table()
            for name in ("fashion-wallet", "fashion-wallet-main"):
                self.narrator.good(f"{name}: {self.wallet.condition('dbs', name)['message']}")

    def _inside_postgres(self) -> None:
        title = "Look inside Postgres"
        shows = "The migrations ran and belong to fw_owner; app_readonly may read and may not write."
        with self.narrator.step(title, shows):
            self._history()
            self.postgres.psql(_SEEDS.read_text(encoding="utf-8"), _DATABASE)
            with self._login("app_readonly") as connection:
                count = self._one(connection, "SELECT count(*) FROM catalog.catalog_items")
                self._check(count == 4, f"app_readonly reads {count} catalogue items", "the seeds hold 4")
                write = "UPDATE catalog.catalog_items SET price = 0"
                self.narrator.command(f'psql -c "{write}"   # as a login in app_readonly')
                try:
                    connection.execute(write)
                except psycopg.errors.InsufficientPrivilege as error:
                    self.narrator.good(f"refused: {error.diag.message_primary}")
                else:
                    raise SandboxError("app_readonly could write to catalog.catalog_items: it must only read")

    def _history(self) -> None:
        with self.postgres.connect(_DATABASE) as connection:
            migrated = self._one(connection, "SELECT count(*) FROM selvedge.history WHERE state = 'Applied'")
            wanted = len({path.name.split("_")[0] for path in (ROOT / "migrations/postgres").glob("*.sql")})
            self._check(migrated == wanted, f"{migrated} of {wanted} migrations stand in the database's history")
            rows = connection.execute(
                "SELECT n.nspname, count(*), array_agg(DISTINCT pg_get_userbyid(c.relowner)::text) FROM pg_class c "
                "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition "
                "AND n.nspname IN ('shared', 'avatar', 'catalog', 'design', 'audit', 'analytics') "
                "GROUP BY 1 ORDER BY 1"
            ).fetchall()
        shown = ", ".join(f"{schema} {count}" for schema, count, _ in rows)
        owners = {owner for _, _, names in rows for owner in names}
        self._check(owners == {"fw_owner"}, f"tables by schema: {shown}; all owned by {', '.join(sorted(owners))}")

    def _inside_mongodb(self) -> None:
        title = "Look inside MongoDB"
        shows = "The collection's validator refuses a bad document and takes a good one, even from root."
        with self.narrator.step(title, shows), self.sandbox.mongodb.client() as client:
            designs = client[_MONGO_DATABASE]["designs"]
            indexes = sorted(name for name in designs.index_information() if name != "_id_")
            self.narrator.good(f"designs has the indexes {', '.join(indexes)}")
            now = datetime.now(UTC)
            bad = {"name": "Summer", "status": "sold"}
            self.narrator.command(f"db.designs.insertOne({bad})")
            try:
                designs.insert_one(dict(bad))
            except WriteError as error:
                if error.code != _DOCUMENT_REFUSED:
                    raise
                self.narrator.good(f"refused: {_missing(error)}")
            else:
                raise SandboxError("MongoDB took a design without userId and with status sold: no validator is there")
            user = "10000000-0000-4000-8000-000000000002"
            good = {"userId": user, "name": "Summer", "status": "draft", "createdAt": now, "updatedAt": now}
            designs.insert_one(good)
            self.narrator.good("a complete design was taken")

    def _drift(self) -> None:
        title = "Break it by hand, and see it repaired"
        shows = "A grant is revoked, a schema given away and an index dropped behind the operator's back."
        with self.narrator.step(title, shows):
            before = self.wallet.metric("selvedge_drift_repaired_total")
            revoke = "REVOKE SELECT ON catalog.catalog_items FROM app_readonly"
            give = "ALTER SCHEMA avatar OWNER TO postgres"
            self.narrator.command(f'psql -c "{revoke}; {give}"')
            self.narrator.command("mongosh --eval \"db.designs.dropIndex('search')\"")
            with self.postgres.connect(_DATABASE) as connection, self.sandbox.mongodb.client() as client:
                designs = client[_MONGO_DATABASE]["designs"]
                with connection.transaction():
                    connection.execute(revoke)
                    connection.execute(give)
                designs.drop_index("search")
                broken = time.monotonic()
                checks = {
                    "SELECT on catalog.catalog_items is granted again": lambda: self._one(
                        connection, "SELECT has_table_privilege('app_readonly', 'catalog.catalog_items', 'SELECT')"
                    ),
                    "schema avatar belongs to fw_owner again": lambda: (
                        self._one(connection, "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname='avatar'")
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
        self._check(repaired == 3, f"selvedge_drift_repaired_total went up by {repaired:.0f}", "3 objects were broken")
        self.wallet.wait_ready("dbs")

    def _still(self) -> None:
        title = "Leave it alone"
        shows = "A pass over what matches is free: the database writes nothing, the resource is not touched."
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
            self._check(after[0] == before[0], f"{_PASSES} passes later the resources have the same resourceVersion")
            self._check(after[1] == before[1], "and Postgres has not begun a single transaction that writes")

    def _footprint(self) -> tuple[list[str], str]:
        """The resources' versions, and the number of the server's next writing transaction."""
        versions = [
            self.wallet.get("dbs", name)["metadata"]["resourceVersion"]
            for name in ("fashion-wallet", "fashion-wallet-main")
        ]
        with self.postgres.connect(_DATABASE) as connection:
            return versions, self._one(connection, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text")

    @contextmanager
    def _no_autovacuum(self) -> Iterator[None]:
        """The server's own housekeeping writes too; without it, nobody but the operator could."""
        workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
        with self.postgres.connect() as admin:
            admin.execute("ALTER SYSTEM SET autovacuum = off")
            try:
                admin.execute("SELECT pg_reload_conf()")
                off = "SELECT current_setting('autovacuum')"
                wait_until(lambda: self._one(admin, off) == "off", "autovacuum could not be switched off", 10)
                wait_until(lambda: self._one(admin, workers) == 0, "an autovacuum worker does not end", 30)
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
            self._check(refused.returncode != 0, "the API server refused it", "it was taken")
            self.narrator.command("kubectl apply -f no-such-extension.yaml")
            self.wallet.apply(_NO_SUCH_EXTENSION)
            message = self.wallet.wait_reason("dbs", "atlas", "ExtensionNotAvailable")
            self.narrator.output(f"Ready=False  ExtensionNotAvailable: {message}")
            self._check("postgis" in message, "the message names what is missing", message)
            ready = self.wallet.condition("dbs", "fashion-wallet")
            self._check(ready["status"] == "True", "fashion-wallet on the same server is Ready all the while")

    def _bad_migration(self) -> None:
        title = "Run a migration with a mistake"
        shows = "Statement 3 of 5 fails: nothing of the file stays, and the message says which line to correct."
        with self.narrator.step(title, shows):
            self.narrator.command("kubectl apply -f outlet.yaml")
            self.narrator.output(self.wallet.apply(_OUTLET))
            message = self.wallet.wait_reason("mig", "outlet-first", "StatementFailed")
            self.narrator.output(f"Ready=False  StatementFailed: {message}")
            (row,) = self.wallet.get("mig", "outlet-first")["status"]["migrations"]
            error = row["error"]
            told = f"{error['file']}, line {error['line']}, statement {error['statement']}: {error['message']}"
            self._check(error["line"] == 4, f"status.migrations: {told}", "the mistake is in line 4")
            with self.postgres.connect("outlet") as connection:
                left = self._one(connection, "SELECT count(*) FROM pg_tables WHERE schemaname = 'outlet'")
            self._check(left == 0, "no table of the file is there: the transaction was rolled back", f"{left} tables")

    def _delete(self) -> None:
        title = "Delete the resources"
        shows = "deletionPolicy: Retain is the default: Kubernetes forgets, the databases keep everything."
        with self.narrator.step(title, shows):
            self.narrator.command(f"kubectl delete mig,dbs,dbsrv --all -n {NAMESPACE}")
            self.sandbox.kubectl("delete", "mig,dbs,dbsrv", "--all", "-n", NAMESPACE, "--timeout=30s")
            with self.postgres.connect(_DATABASE) as connection:
                items = self._one(connection, "SELECT count(*) FROM catalog.catalog_items")
            with self.sandbox.mongodb.client() as client:
                designs = client[_MONGO_DATABASE]["designs"].count_documents({})
            kept = f"{items} catalogue items and {designs} design are still there"
            self._check(items == 4 and designs == 1, kept, "data was lost")

    def _table(self) -> None:
        self.narrator.command(f"kubectl get dbsrv,dbs,mig -n {NAMESPACE}")
        self.narrator.output(self.sandbox.kubectl("get", "dbsrv,dbs,mig", "-n", NAMESPACE).stdout)

    def _check(self, holds: bool, text: str, otherwise: str = "") -> None:
        if not holds:
            raise SandboxError(f"this does not hold: {text}" + (f" ({otherwise})" if otherwise else ""))
        self.narrator.good(text)

    @contextmanager
    def _login(self, role: str) -> Iterator[psycopg.Connection[Any]]:
        """A session of a login that exists for a moment and is a member of ``role``, as an application's would be."""
        name, password = f"demo_{secrets.token_hex(4)}", secrets.token_hex(16)
        login = sql.Identifier(name)
        create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}")
        with self.postgres.connect() as admin:
            admin.execute(create.format(login, sql.Literal(password), sql.Identifier(role)))
            try:
                with self.postgres.connect(_DATABASE, user=name, password=password) as connection:
                    yield connection
            finally:
                admin.execute(sql.SQL("DROP ROLE {}").format(login))

    @staticmethod
    def _one(connection: psycopg.Connection[Any], query: str) -> Any:
        """The first column of the first row."""
        row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]


def _missing(error: WriteError) -> str:
    """Which rules of the validator the document breaks, from the server's own answer."""
    details = (error.details or {}).get("errInfo", {}).get("details", {})
    parts = []
    for rule in details.get("schemaRulesNotSatisfied", ()):
        if "missingProperties" in rule:
            parts.append(f"missing {', '.join(rule['missingProperties'])}")
        parts += [f"{found['propertyName']} is not as it must be" for found in rule.get("propertiesNotSatisfied", ())]
    return f"{(error.details or {}).get('errmsg', 'document refused')} ({'; '.join(parts)})"
