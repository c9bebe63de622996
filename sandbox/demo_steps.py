"""The steps of the demo. Each is a sentence, what is done, and a check that raises SandboxError if it does not hold."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
from pymongo.errors import WriteError

from sandbox.demo_access import Access, Approval
from sandbox.demo_checks import DATABASE, MONGO_DATABASE, Checks
from sandbox.demo_trouble import Trouble
from sandbox.errors import SandboxError
from sandbox.wallet import KINDS, NAMESPACE, ROOT

_SEEDS = ROOT / "migrations" / "postgres" / "seeds" / "20241120000000_development_data.sql"
_DOCUMENT_REFUSED = 121


class Steps(Checks):
    """All steps in their order, on one deployment."""

    def run(self) -> None:
        """Every step; ends at the first that does not hold."""
        self._operator()
        self._apply()
        self._ready()
        self._inside_postgres()
        self._inside_mongodb()
        Access(self.wallet, self.narrator).run()
        Trouble(self.wallet, self.narrator).run()
        Approval(self.wallet, self.narrator).run()
        self._delete()

    def _operator(self) -> None:
        title = "Install the custom resources and start the operator"
        with self.narrator.step(title, self.wallet.shows):
            self.narrator.command(self.wallet.commands[0])
            self.wallet.install()
            self.narrator.command(self.wallet.commands[1])
            self.wallet.start_operator()
            self.narrator.good(f"the operator leads and answers on {self.wallet.url} (/health, /metrics)")

    def _apply(self) -> None:
        title = "Apply Fashion Wallet"
        shows = "Secrets, migrations and declarations go in at once; nothing has to be ordered by hand."
        with self.narrator.step(title, shows):
            self.wallet.secrets()
            self.narrator.good("namespace shop, and in it Secrets with the administrators' logins and the servers' CA")
            for engine in ("postgres", "mongodb"):
                self.narrator.command(f"kubectl apply -k migrations/{engine}")
            self.wallet.migrations()
            self.narrator.command(
                f"kubectl apply -f examples/fashion-wallet/   # {self.wallet.changed}, and interval: "
                f"{self.wallet.interval} instead of 5m, so that repairs are quick to see"
            )
            for _, manifest in self.wallet.manifests():
                self.narrator.output(self.wallet.apply(manifest))

    def _ready(self) -> None:
        title = "Wait until everything is Ready"
        shows = "Ready means that both databases were inspected after the last change and equal the declaration."
        with self.narrator.step(title, shows):
            self.narrator.command(f"kubectl wait --for=condition=Ready {KINDS} --all -n {NAMESPACE}")
            self.wallet.wait_ready(KINDS)
            self._table()
            for name in ("fashion-wallet", "fashion-wallet-main"):
                self.narrator.good(f"{name}: {self.wallet.condition('dbs', name)['message']}")

    def _inside_postgres(self) -> None:
        title = "Look inside Postgres"
        shows = "The migrations ran and belong to fw_owner; app_readonly may read and may not write."
        with self.narrator.step(title, shows):
            self._history()
            self.postgres.psql(_SEEDS.read_text(encoding="utf-8"), DATABASE)
            with self.login("app_readonly") as connection:
                count = self.one(connection, "SELECT count(*) FROM catalog.catalog_items")
                self.check(count == 4, f"app_readonly reads {count} catalogue items", "the seeds hold 4")
                write = "UPDATE catalog.catalog_items SET price = 0"
                self.narrator.command(f'psql -c "{write}"   # as a login in app_readonly')
                try:
                    connection.execute(write)
                except psycopg.errors.InsufficientPrivilege as error:
                    self.narrator.good(f"refused: {error.diag.message_primary}")
                else:
                    raise SandboxError("app_readonly could write to catalog.catalog_items: it must only read")

    def _history(self) -> None:
        with self.postgres.connect(DATABASE) as connection:
            migrated = self.one(connection, "SELECT count(*) FROM selvedge.history WHERE state = 'Applied'")
            wanted = len({path.name.split("_")[0] for path in (ROOT / "migrations/postgres").glob("*.sql")})
            self.check(migrated == wanted, f"{migrated} of {wanted} migrations stand in the database's history")
            rows = connection.execute(
                "SELECT n.nspname, count(*), array_agg(DISTINCT pg_get_userbyid(c.relowner)::text) FROM pg_class c "
                "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition "
                "AND n.nspname IN ('shared', 'avatar', 'catalog', 'design', 'audit', 'analytics') "
                "GROUP BY 1 ORDER BY 1"
            ).fetchall()
        shown = ", ".join(f"{schema} {count}" for schema, count, _ in rows)
        owners = {owner for _, _, names in rows for owner in names}
        self.check(owners == {"fw_owner"}, f"tables by schema: {shown}; all owned by {', '.join(sorted(owners))}")

    def _inside_mongodb(self) -> None:
        title = "Look inside MongoDB"
        shows = "The collection's validator refuses a bad document and takes a good one, even from root."
        with self.narrator.step(title, shows), self.sandbox.mongodb.client() as client:
            designs = client[MONGO_DATABASE]["designs"]
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

    def _table(self) -> None:
        self.narrator.command(f"kubectl get {KINDS} -n {NAMESPACE}")
        self.narrator.output(self.sandbox.kubectl("get", KINDS, "-n", NAMESPACE).stdout)

    def _delete(self) -> None:
        title = "Delete the resources"
        shows = "Databases are kept, as deletionPolicy: Retain is their default; logins go, as Delete is theirs."
        with self.narrator.step(title, shows):
            self.narrator.command(f"kubectl delete dbu,mig,dbs,dbsrv --all -n {NAMESPACE}")
            self.sandbox.kubectl("delete", "dbu,mig,dbs,dbsrv", "--all", "-n", NAMESPACE, "--timeout=30s")
            with self.postgres.connect(DATABASE) as connection:
                items = self.one(connection, "SELECT count(*) FROM catalog.catalog_items")
                logins = self.one(connection, "SELECT count(*) FROM pg_roles WHERE rolname ~ '_service(_[ab])?$'")
            with self.sandbox.mongodb.client() as client:
                designs = client[MONGO_DATABASE]["designs"].count_documents({})
            kept = f"{items} catalogue items and {designs} design are still there"
            self.check(items == 4 and designs == 1, kept, "data was lost")
            self.check(logins == 0, "and no login of a service", f"{logins} are")


def _missing(error: WriteError) -> str:
    """Which rules of the validator the document breaks, from the server's own answer."""
    details = (error.details or {}).get("errInfo", {}).get("details", {})
    parts = []
    for rule in details.get("schemaRulesNotSatisfied", ()):
        if "missingProperties" in rule:
            parts.append(f"missing {', '.join(rule['missingProperties'])}")
        parts += [f"{found['propertyName']} is not as it must be" for found in rule.get("propertiesNotSatisfied", ())]
    return f"{(error.details or {}).get('errmsg', 'document refused')} ({'; '.join(parts)})"
