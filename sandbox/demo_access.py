"""The demo's steps on who may do what: two users, the audit trail, passwords, and a plan that waits for a person."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg

from sandbox.demo_checks import MONGO_DATABASE, Checks
from sandbox.errors import SandboxError
from sandbox.waiting import wait_until
from sandbox.wallet import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    Login = dict[str, str]

_USER = "10000000-0000-4000-8000-000000000002"
_DESIGNER = "10000000-0000-4000-8000-000000000003"
_PEOPLE = {"user@fashionwallet.com": _USER, "designer@fashionwallet.com": _DESIGNER}
_TRAIL = """
SELECT operation, session_role, user_id, old_values ->> 'first_name', new_values ->> 'first_name',
  new_values ? 'password_hash', (new_values ->> 'version')::int - (old_values ->> 'version')::int
FROM trail.database_operations WHERE table_name = 'shared.users' AND operation = 'UPDATE'
ORDER BY executed_at DESC LIMIT 1
"""
_CHANGE_SECONDS = 20.0
_COLLECTION = "sessions"


class Access(Checks):
    """What each login may see and change, as the login itself finds out."""

    def run(self) -> None:
        """Every step; ends at the first that does not hold."""
        self._isolation()
        self._audit()
        self._rotation()

    @contextmanager
    def service(self, login: Login, user: str = "") -> Iterator[psycopg.Connection[Any]]:
        """A session as a service has it: the Secret's URI, and the user on whose behalf it acts."""
        with psycopg.connect(login["uri"], sslrootcert=str(self.postgres.ca_path), autocommit=True) as connection:
            connection.execute("SELECT set_config('app.current_user_id', %s, false)", [user])
            yield connection

    def _isolation(self) -> None:
        title = "Two users, one service, and neither sees the other"
        shows = "avatar_service logs in with its Secret, once for each user; row-level security decides what it gets."
        with self.narrator.step(title, shows):
            self.narrator.command(f"kubectl get dbu -n {NAMESPACE}")
            self.narrator.output(self.sandbox.kubectl("get", "dbu", "-n", NAMESPACE).stdout)
            login = self.wallet.secret("avatar-service-db")
            self.narrator.command('psql "$uri"   # with the uri of Secret avatar-service-db, once for each user')
            users, avatars = "SELECT string_agg(email, ', ') FROM shared.users", "SELECT count(*) FROM avatar.avatars"
            for email, user in _PEOPLE.items():
                with self.service(login, user) as connection:
                    seen, count = self.one(connection, users), self.one(connection, avatars)
                    text = f"acting for {email}, it sees the user {seen} and {count} avatar"
                    self.check((seen, count) == (email, 1), text, "each user has one avatar, and is to see no other")
            with self.service(login, _USER) as connection:
                theirs = connection.execute("UPDATE avatar.avatars SET name = 'x' WHERE user_id = %s", [_DESIGNER])
                self.check(theirs.rowcount == 0, "an UPDATE of the other's avatar finds no row")
                self._refused(connection, "INSERT INTO avatar.avatars (user_id, name) VALUES (%s, 'x')", _DESIGNER)
                self._refused(connection, "SELECT FROM design.designs")
            with self.service(login) as connection:
                nobody = (self.one(connection, users), self.one(connection, avatars))
                self.check(nobody == (None, 0), "acting for nobody, it sees nothing")
            self._probed()

    def _refused(self, connection: psycopg.Connection[Any], statement: str, *values: str) -> None:
        try:
            connection.execute(statement.encode(), values)
        except psycopg.errors.InsufficientPrivilege as error:
            self.narrator.good(f"refused: {error.diag.message_primary}")
        else:
            raise SandboxError(f"the server took this: {statement}")

    def _probed(self) -> None:
        """The operator tried the same by itself, once there were rows to try it with."""

        def rows() -> dict[str, dict[str, int]]:
            status = self.wallet.get("dbs", "fashion-wallet")["status"]
            return {row["table"]: row["probes"] for row in status.get("rowLevelSecurity", ())}

        def tried() -> bool:
            return all(rows().get(table, {}).get("passed") for table in ("shared.users", "avatar.avatars"))

        now = "selvedge.dev/reconcile-now=seeded"
        self.narrator.command(f"kubectl annotate dbs fashion-wallet -n {NAMESPACE} {now}")
        self.sandbox.kubectl("annotate", "dbs", "fashion-wallet", "-n", NAMESPACE, now)
        wait_until(tried, "the operator did not probe the tables that have rows", _CHANGE_SECONDS * 2)
        found = rows()
        failed = sum(row["failed"] for row in found.values())
        shown = ", ".join(f"{table} {row['passed']}" for table, row in found.items())
        self.check(
            failed == 0, f"the operator tried the same by itself; probes that passed: {shown}", f"{failed} failed"
        )

    def _audit(self) -> None:
        title = "Who changed what"
        shows = "A change leaves a row in the audit trail, with the person behind the login; no service can touch it."
        with self.narrator.step(title, shows):
            change = "UPDATE shared.users SET first_name = 'Ada'"
            login = self.wallet.secret("avatar-service-db")
            with self.service(login, _USER) as connection:
                self.narrator.command(f'psql -c "{change}"   # avatar_service, for user@fashionwallet.com')
                self.check(connection.execute(change.encode()).rowcount == 1, "one row is changed: the user's own")
                self._refused(connection, "SELECT FROM trail.database_operations")
                self._refused(connection, "DELETE FROM trail.database_operations")
            with self.service(self.wallet.secret("back-office-db")) as connection:
                row = connection.execute(_TRAIL).fetchone()
            if row is None:
                raise SandboxError("the audit trail has no row of the change")
            operation, session, user, before, after, hashed, counted = row
            told = f"back_office reads: {operation} by {session} for {user}: first_name {before} became {after}"
            self.check((session, user, after) == (login["username"], _USER, "Ada"), told, "another row was expected")
            self.check(not hashed, "password_hash is not in it")
            self.check(counted == 1, "and the change counted the row's version up by 1", f"by {counted}")

    def _rotation(self) -> None:
        title = "Rotate passwords"
        shows = "In place the old password ends at once; with DualUser the old login goes on until its grace is over."
        with self.narrator.step(title, shows):
            old, new = self._rotate("catalog-service")
            self.check(self._logs_in(new), "catalog_service logs in with its new password")
            self.check(not self._logs_in(old), "and with the old one no more")
            old, new = self._rotate("avatar-service")
            names = f"avatar-service: {old['username']} hands over to {new['username']}"
            self.check(old["username"] != new["username"], names)
            self.check(self._logs_in(old) and self._logs_in(new), "both log in: no Pod is locked out meanwhile")
            with self.service(new) as connection:
                self.check(
                    self.one(connection, "SELECT current_user") == "avatar_service",
                    "and both act as avatar_service: what they make belongs to one owner",
                )

    def _rotate(self, name: str) -> tuple[Login, Login]:
        secret = f"{name}-db"
        before = self.wallet.secret(secret)
        asked = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.narrator.command(f"kubectl annotate dbu {name} -n {NAMESPACE} selvedge.dev/rotate={asked}")
        self.sandbox.kubectl("annotate", "dbu", name, "-n", NAMESPACE, f"selvedge.dev/rotate={asked}")
        wait_until(
            lambda: self.wallet.secret(secret)["password"] != before["password"],
            f"Secret {secret} holds the old password after {_CHANGE_SECONDS:.0f} s",
            _CHANGE_SECONDS,
        )
        return before, self.wallet.secret(secret)

    def _logs_in(self, login: Login) -> bool:
        try:
            with self.service(login):
                return True
        except psycopg.OperationalError:
            return False


class Approval(Checks):
    """A plan that would lose data, and the person who is asked."""

    def run(self) -> None:
        """The one step."""
        title = "Ask for something that loses data"
        shows = "The declaration says that a collection is to go. It waits until somebody approves exactly this plan."
        with self.narrator.step(title, shows), self.sandbox.mongodb.client() as client:
            database = client[MONGO_DATABASE]
            now = datetime.now(UTC)
            database[_COLLECTION].insert_one(
                {"userId": _USER, "tokenHash": "demo", "expiresAt": now.replace(year=2099)}
            )
            self._declare_absent()
            message = self.wallet.wait_reason("dbs", "fashion-wallet-main", "WaitingForApproval")
            self.narrator.output(f"False  WaitingForApproval: {message}")
            shown = self._plugin("plan", "fashion-wallet-main", status=2)
            self.narrator.output(shown)
            self.check("Destructive" in shown, "the plan names the collection, and says that it is destructive")
            self.check(
                database[_COLLECTION].count_documents({}) == 1, "nothing has happened yet: its document is there"
            )
            digest = self.wallet.get("dbs", "fashion-wallet-main")["status"]["plan"]["digest"]
            self._plugin("approve", "fashion-wallet-main", "--yes", "--digest", "sha256:" + "0" * 64, status=1)
            self.narrator.good("an approval of another plan is refused")
            self.narrator.output(self._plugin("approve", "fashion-wallet-main", "--yes", "--digest", digest))
            self.wallet.wait_ready("dbs", "fashion-wallet-main")
            gone = _COLLECTION not in database.list_collection_names()
            self.check(gone, "the collection is gone, and fashion-wallet-main is Ready", "it is still there")

    def _declare_absent(self) -> None:
        collections = self.wallet.get("dbs", "fashion-wallet-main")["spec"]["mongodb"]["collections"]
        position = [one["name"] for one in collections].index(_COLLECTION)
        absent = {"name": _COLLECTION, "ensure": "Absent"}
        patch = json.dumps([{"op": "replace", "path": f"/spec/mongodb/collections/{position}", "value": absent}])
        self.narrator.command(f"kubectl patch dbs fashion-wallet-main -n {NAMESPACE} --type=json -p '{patch}'")
        self.sandbox.kubectl("patch", "dbs", "fashion-wallet-main", "-n", NAMESPACE, "--type=json", "-p", patch)

    def _plugin(self, *arguments: str, status: int = 0) -> str:
        """``kubectl selvedge``; raises SandboxError if it ends with another exit status."""
        self.narrator.command(f"kubectl selvedge {' '.join(arguments)} -n {NAMESPACE}")
        command = [sys.executable, "-m", "selvedge.cli.kubectl", *arguments, "-n", NAMESPACE]
        env = self.sandbox.environment()
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != status:
            answer = " ".join((done.stderr or done.stdout).split())
            raise SandboxError(f"kubectl selvedge {arguments[0]} ended with {done.returncode}, not {status}: {answer}")
        return done.stdout
