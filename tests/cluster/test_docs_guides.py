"""Every command of the guides, executed; see test_docs_commands.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from sandbox import tools
from tests.cluster.docs_shop import GROUP, NEWEST, Shop, opened, served, walk
from tests.cluster.docs_support import (
    ROOT,
    Command,
    Shell,
)
from tests.cluster.world import wait_for

pytestmark = pytest.mark.xdist_group("docs")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Fashion Wallet as ``docs/fashion-wallet.md`` has it applied by hand."""
    with opened(tmp_path_factory.mktemp("docs") / "work") as made:
        yield made


@pytest.mark.long
def test_servers(shop: Shop):
    roles = [{"name": "susetting", "settings": {"session_replication_role": "replica"}}]
    spec = {"serverRef": {"name": "main-postgres"}, "database": "susetting", "postgres": {"roles": roles}}
    document = {"apiVersion": GROUP, "kind": "DatabaseSchema", "metadata": {"name": "susetting"}, "spec": spec}
    (shop.directory / "setting.yaml").write_text(yaml.safe_dump(document))
    shell = shop.shell()
    walk(shell, "docs/guide/servers.md", {"setting.yaml": lambda c: shell.execute(c, fails=True)})


@pytest.mark.long
def test_users(shop: Shop):
    before = shop.kubectl("get", "secret", "avatar-service-db", "-n", "shop", "-o", "jsonpath={.data.password}")
    walk(shop.shell(), "docs/guide/users.md", {})
    wait_for(
        lambda: (
            shop.kubectl("get", "secret", "avatar-service-db", "-n", "shop", "-o", "jsonpath={.data.password}")
            != before
        ),
        60,
    )


@pytest.mark.long
def test_row_level_security(shop: Shop):
    shell = shop.shell()

    def probed(command: Command) -> None:
        # a table without rows is not probed
        for seed in sorted((ROOT / "migrations" / "postgres" / "seeds").glob("*.sql")):
            shell.run(f"psql --quiet --set ON_ERROR_STOP=1 fashion_wallet --file {seed}")
        _look(shell, "fashion-wallet")
        wait_for(lambda: '"notProbed":0' in shell.run(command.bare), 60)
        shell.execute(command)

    walk(shell, "docs/guide/row-level-security.md", {"rowLevelSecurity": probed})


def _in_shop(shop: Shop, **changes: str) -> Shell:
    """A shell whose kubeconfig has the namespace ``shop``, as the page's commands name none."""
    shell = shop.shell(**changes)
    path = shop.directory / "kubeconfig-shop"
    path.write_text(shop.sandbox.kubeconfig.read_text())
    shell.environment["KUBECONFIG"] = str(path)
    shell.run("kubectl config set-context --current --namespace shop")
    return shell


@pytest.mark.long
def test_schemas(shop: Shop):
    postgres = {"owner": "approve_owner", "roles": [{"name": "approve_owner"}]}
    spec = {"serverRef": {"name": "main-postgres"}, "database": "approve", "apply": "OnApproval", "postgres": postgres}
    shop.apply({"kind": "DatabaseSchema", "metadata": {"name": "approve"}, "spec": spec})
    shop.reason("dbs/approve", "WaitingForApproval")
    shell = shop.shell()
    digest = shop.kubectl("get", "dbs", "approve", "-n", "shop", "-o", "jsonpath={.status.plan.digest}")

    def patch(command: Command) -> None:
        if "--as=editor" not in command.text:
            shell.changes = {"sha256:32ec…": digest}
            shell.execute(command)
            shop.ready("dbs/approve")
            return
        _restrict(shop)
        shell.changes = {"sha256:32ec…": "sha256:" + "a" * 64}
        shell.execute(command, fails=True)

    def bind(command: Command) -> None:
        shop.kubectl("delete", "rolebinding", "approvers", "-n", "shop", "--ignore-not-found")
        shell.execute(command)

    walk(shell, "docs/guide/schemas.md", {"kubectl patch": patch, "create rolebinding": bind})


def _restrict(shop: Shop) -> None:
    """The chart's roles and admission policy, and a user who may edit and not approve."""
    shown = ("--show-only", "templates/approval.yaml", "--show-only", "templates/user-roles.yaml")
    chart = str(ROOT / "charts" / "selvedge")
    made = subprocess.run(
        [
            str(tools.helm()),
            "template",
            "selvedge",
            chart,
            "--set",
            "watchNamespaces={shop}",
            "--set",
            "clusterUid=x",
            *shown,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    shop.sandbox.kubectl("apply", "-f", "-", input=made.stdout)
    shop.kubectl("create", "rolebinding", "editors", "--clusterrole=edit", "--user=editor", "-n", "shop", check=False)
    probe = json.dumps({"spec": {"approvedPlan": "sha256:" + "b" * 64}})
    command = ("patch", "dbs", "approve", "-n", "shop", "--type=merge", "-p", probe, "--as=editor", "--dry-run=server")
    wait_for(lambda: "may not set" in shop.sandbox.kubectl(*command, check=False).stderr, 60)


@pytest.mark.long
def test_drift_and_deletion(shop: Shop):
    page = "docs/guide/drift-and-deletion.md"
    shell = _in_shop(shop)

    def events(command: Command) -> None:
        wait_for(lambda: "No resources" not in shell.run(command.bare), 60)
        shell.execute(command)

    def made(name: str, **spec: Any) -> None:
        declared = {"serverRef": {"name": "main-postgres"}, "database": name, **spec}
        shop.apply({"kind": "DatabaseSchema", "metadata": {"name": name}, "spec": declared})

    def waits(command: Command) -> None:
        if command.output and "DriftDetected" in command.output[-1]:
            postgres = {
                "owner": "waits_owner",
                "roles": [{"name": "waits_owner"}, {"name": "waits_reader"}],
                "schemas": [{"name": "app", "owner": "waits_owner"}],
                "grants": [
                    {"name": "read", "privileges": ["SELECT"], "objects": {"tablesIn": ["app"]}, "to": ["waits_reader"]}
                ],
            }
            made("waits", deletionPolicy="Delete", postgres=postgres)
            shop.ready("dbs/waits")
            shell.run("psql waits -c 'CREATE TABLE app.orders (id int); ALTER TABLE app.orders OWNER TO waits_owner'")
            _look(shell, "waits")
            wait_for(lambda: "waits_reader" in shell.run("psql waits -c '\\dp app.orders'"), 60)
            made("waits", drift="Report", deletionPolicy="Delete", postgres=postgres)
            shop.reason("dbs/waits", "2", "observedGeneration")
            shop.ready("dbs/waits")
            shell.run("psql waits -c 'REVOKE SELECT ON app.orders FROM waits_reader'")
            _look(shell, "waits")
            shop.reason("dbs/waits", "DriftDetected")
        shell.execute(command)

    def legacy(command: Command) -> None:
        if "jsonpath" in command.text:
            shell.run("psql postgres -c 'CREATE ROLE legacy_owner' -c 'CREATE DATABASE legacy OWNER legacy_owner'")
            absent = {"objects": {"database": True}, "to": ["PUBLIC"], "ensure": "Absent"}
            grants = [
                {"name": "closed", "privileges": ["CONNECT"], **absent},
                {"name": "no-temporary", "privileges": ["TEMPORARY"], **absent},
            ]
            roles = [{"name": "legacy_owner"}]
            made("legacy", adoption="Allow", postgres={"owner": "legacy_owner", "roles": roles, "grants": grants})
            shop.reason("dbs/legacy", "WaitingForApproval")
        if "approve" in command.text:
            _approve(shell, command, "dbs/legacy", "{.status.plan.digest}")
            shop.ready("dbs/legacy")
        else:
            shell.execute(command, fails="selvedge plan" in command.text)

    walk(shell, page, {"legacy": legacy, "dbs waits": waits, "get events": events})


def _look(shell: Shell, name: str) -> None:
    """Ask for a pass over a DatabaseSchema."""
    shell.run(f"kubectl annotate dbs {name} -n shop --overwrite selvedge.dev/reconcile-now={time.time_ns()}")


def _approve(shell: Shell, command: Command, what: str, path: str) -> None:
    """``kubectl selvedge approve`` as a script does it, who has no terminal to be asked at."""
    digest = shell.run(f"kubectl get {what} -n shop -o jsonpath='{path}'")
    shell.changes = {command.bare: f"{command.bare} --yes --digest {digest}"}
    shell.execute(command)


@pytest.mark.long
def test_migrations(shop: Shop):
    page = "docs/guide/migrations.md"
    shell, offline = _in_shop(shop), served(shop, "16", NEWEST, count=14)
    run = {"schemaRef": {"name": "fashion-wallet"}, "action": "Down"}

    def waiting(command: Command) -> None:
        source = {"configMaps": [{"name": "fashion-wallet-migrations"}]}
        shop.apply({"kind": "MigrationRun", "metadata": {"name": "back"}, "spec": {**run, "source": source}})
        shop.reason("mig/back", "WaitingForApproval")
        shell.execute(command, fails=True)

    def digest(command: Command) -> None:
        url = f"--url 'postgresql://postgres@{offline.changes['db.example.com']}/fashion_wallet?sslrootcert=ca.crt'"
        changes = dict(offline.changes)
        offline.run(f"selvedge apply --yes -f examples/fashion-wallet {changes['--url …']}", fails=True)
        offline.changes = {"--url …": url}
        if shutil.which("jq") is None:
            offline.changes["jq -r .digest"] = (
                f"{sys.executable} -c 'import json; print(json.load(open(0))[\"digest\"])'"
            )
        # something is pending (2), which is told through the pipe
        assert "sha256:" in offline.execute(command, fails=True)
        offline.changes = changes

    def migrate(command: Command) -> None:
        changes = dict(offline.changes)
        if "migrate new" in command.text:
            offline.run("selvedge migrate up --dir migrations --role fw_owner")
        asked = {"up": "--role fw_owner", "down": "--yes --role fw_owner", "to": "--yes --role fw_owner"}
        word = command.bare.split()[2]
        if word in asked:
            offline.changes |= {command.bare: f"{command.bare} --dir migrations {asked[word]}"}
        # status and plan end with 2 where something is pending
        offline.execute(command, fails=word in ("status", "plan"))
        offline.changes = changes
        if word == "new":
            (new,) = (offline.directory / "migrations").glob("*_add_wishlists.sql")
            new.write_text("-- migrate:up\nCREATE TABLE shared.wishlists (id int);\n-- migrate:down\nSELECT 1;\n")

    def lint(command: Command) -> None:
        directory = offline.directory / "lint"
        (directory / "migrations").mkdir(parents=True)
        statements = "alter table outlet.sales drop column note;\ncreate index sales_by_day on outlet.sales (day);\n"
        (directory / "migrations" / "20251201120000_drop_note.sql").write_text(f"-- migrate:up\n{statements}")
        Shell(directory, offline.environment).execute(command, fails=True)

    special = {
        "selvedge plan mig/back": waiting,
        "approve mig/back": lambda c: _approve(shell, c, "mig/back", "{.status.plan}"),
        "migrate plan --url": digest,
        "export SELVEDGE_URL": offline.execute,
        "migrate lint": lint,
        "selvedge migrate": migrate,
    }
    walk(shell, page, special)
