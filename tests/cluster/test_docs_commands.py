"""Every command in README and docs is executed, and prints what the page says; or it stands here with its reason.

Page by page, in the order of the page, on a Kubernetes API server, Postgres and MongoDB of their own, with the operator
as a process. What a page takes for granted (a resource that waits, a changed table) is made right before its command.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox import Sandbox, tools
from sandbox.handles import SandboxPostgres
from tests.cluster.docs_support import (
    ROOT,
    Command,
    Shell,
    all_commands,
    blocks,
    clean_environment,
    matching,
    page_of,
    pattern,
)
from tests.cluster.world import wait_for

pytestmark = pytest.mark.xdist_group("docs")

#: Not executed here, and why. A key is a part of the command.
REASONS = {
    "make setup": "it makes the environment that the tests run in",
    "pre-commit install": "it changes the clone's own .git/hooks",
    "make demo": "executed by tests/cluster/test_demo.py",
    "make check": "it is what CI runs beside the tests",
    "make test": "it is what runs this test",
    "make bench": "it takes more than an hour",
    "-m bench": "it measures for minutes",
    "-m bench.tables": "it changes docs/performance.md",
    "make image": "it needs the internet, and docker or buildah; tests/sandbox builds the same file",
    "trivy image": "a scanner of one's own choice",
    "grype sbom:": "a scanner of one's own choice",
    "pip install .": "it needs the internet; the image has the same package",
    "rollout status": "it waits for pods, and there is no node",
    "helm test": "it waits for pods, and there is no node",
    "helm upgrade selvedge charts/selvedge": "executed by tests/cluster/test_upgrade.py",
    "helm rollback selvedge": "executed by tests/cluster/test_upgrade.py",
    "helm uninstall selvedge": "executed by tests/cluster/test_uninstall.py",
    "selvedge release": "executed by tests/cluster/test_uninstall.py",
    "kubectl patch dbs NAME": "executed by tests/cluster/test_uninstall.py",
    "kubectl delete crd": "executed by tests/cluster/test_uninstall.py, in a cluster of its own",
}
#: Pages whose commands are executed, each by the test of its name below.
EXECUTED = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/cli.md",
    "docs/fashion-wallet.md",
    "docs/guide/drift-and-deletion.md",
    "docs/guide/getting-started.md",
    "docs/guide/install.md",
    "docs/guide/migrations.md",
    "docs/guide/row-level-security.md",
    "docs/guide/schemas.md",
    "docs/guide/servers.md",
    "docs/guide/users.md",
)
#: Instead of all of tests/cluster, on a cluster that is named by SELVEDGE_KUBECONFIG.
#: None with an operator: the shop's watches all namespaces there.
_A_FEW_TESTS = "tests/cluster/test_kube_client.py tests/cluster/test_lease.py"
_GROUP = "selvedge.dev/v1alpha1"
_NEWEST = 20251115120000  # the newest migration in the examples of the command line


def test_each_command_is_executed_or_has_a_reason():
    """A page with a new command: give it a test below, or the command a reason above."""
    left = [c for c in all_commands() if c.page not in EXECUTED and not matching(c.bare, REASONS)]
    assert left == []
    assert [name for name in EXECUTED if not page_of(name)] == [], "pages without any command"
    texts = [command.bare for command in all_commands()]
    assert [part for part in REASONS if not any(part in text for text in texts)] == [], "reasons for nothing"


def test_a_printed_line_stands_for_others_of_its_kind():
    line = "2s   Warning   DriftCorrected   databaseschema/shop   sha256:32ec… and 0.03 s at 2026-12-21T06:40:11Z"
    like = "17m Warning DriftCorrected databaseschema/shop sha256:aa00ff and 1.5 s at 2027-01-01T00:00:00Z"
    assert pattern(line).search(like)
    assert not pattern(line).search(like.replace("shop", "outlet"))


@pytest.mark.parametrize("command", [c for c in all_commands() if c.bare.startswith("make ")], ids=lambda c: c.bare)
def test_every_target_of_make_exists(command: Command):
    if command.bare in ("make test-long", "make clean"):
        return  # a recipe that calls make again runs it even in a dry run
    done = subprocess.run(
        ["make", "--dry-run", *command.bare.split()[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


class Shop:
    """The deployment of ``docs/fashion-wallet.md``, and shells to work with it."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self.sandbox = sandbox
        self.directory = directory
        self.postgres = sandbox.postgres["18"]
        directory.mkdir()
        for name in ("charts", "crds"):
            (directory / name).symlink_to(ROOT / name)
        for name in ("examples", "migrations"):
            shutil.copytree(ROOT / name, directory / name)
        servers = directory / "examples" / "fashion-wallet" / "10-servers.yaml"
        servers.write_text(servers.read_text().replace("port: 27017", f"port: {sandbox.mongodb.port}"))
        (directory / "pg-password").write_text(self.postgres.password)
        (directory / "mongo-password").write_text(sandbox.mongodb.password)
        (directory / "ca.crt").write_text(self.postgres.ca)

    def shell(self, server: SandboxPostgres | None = None, **changes: str) -> Shell:
        """A shell with the programs on its PATH, psql and kubectl set up, and changes to what is printed."""
        server = server or self.postgres
        path = ":".join(
            str(p)
            for p in (
                Path(sys.executable).parent,
                tools.control_plane(),
                tools.postgres_client(),
                tools.helm().parent,
            )
        )
        # a copy, since a page may choose another namespace
        kubeconfig = self.directory / "kubeconfig"
        if not kubeconfig.exists():
            kubeconfig.write_text(self.sandbox.kubeconfig.read_text())
        environment = clean_environment(
            path,
            KUBECONFIG=str(kubeconfig),
            PGHOST=server.host,
            PGPORT=str(server.port),
            PGUSER=server.username,
            PGPASSWORD=server.password,
            PGSSLMODE="verify-full",
            PGSSLROOTCERT=str(server.ca_path),
        )
        return Shell(self.directory, environment, changes)

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        """As the administrator; what it printed."""
        return self.sandbox.kubectl(*arguments, check=check).stdout

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Apply resources of ours."""
        text = yaml.safe_dump_all([{"apiVersion": _GROUP, **document} for document in documents])
        self.sandbox.kubectl("apply", "-n", "shop", "-f", "-", input=text)

    def ready(self, *what: str, timeout: int = 90) -> None:
        """Wait until they are Ready."""
        arguments = ("-n", "shop", "wait", "--for=condition=Ready", f"--timeout={timeout}s", *what)
        self.sandbox.kubectl(*arguments, timeout=timeout * 2)

    def reason(self, what: str, wanted: str, field: str = "reason") -> None:
        """Wait until Ready has this reason."""
        path = f'jsonpath={{.status.conditions[?(@.type=="Ready")].{field}}}'
        wait_for(lambda: wanted in self.kubectl("get", what, "-n", "shop", "-o", path), 60)


def walk(shell: Shell, page: str, special: Mapping[str, Callable[[Command], object]]) -> None:
    """Execute the commands of a page in order; ``special`` does it for those with this part in them."""
    for command in page_of(page):
        if matching(command.bare, REASONS):
            continue
        doing = next((do for part, do in special.items() if part in command.bare), None)
        if doing is None:
            shell.execute(command)
        else:
            doing(command)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Servers, the operator, and Fashion Wallet as ``docs/fashion-wallet.md`` has it applied by hand."""
    with Sandbox.start(postgres=("18",)) as sandbox:
        sandbox.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        sandbox.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))
        sandbox.supervise("operator", [sys.executable, "-m", "selvedge", "run"], sandbox.environment())
        shop = Shop(sandbox, tmp_path_factory.mktemp("docs") / "work")
        shell = shop.shell(**{"db.example.com": "localhost", "6432": str(shop.postgres.port)})
        late: list[Command] = []
        walk(shell, "docs/fashion-wallet.md", {"wait --for": late.append})
        for command in late:  # the other address of the servers stands below it on the page
            shell.execute(command)
        yield shop


@pytest.mark.long
def test_fashion_wallet_by_hand(shop: Shop):
    assert "False" not in shop.kubectl("get", "dbsrv,dbs,mig,dbu", "-n", "shop")


@pytest.mark.long
def test_readme(shop: Shop):
    (manifest,) = (block.text for block in blocks(ROOT / "README.md") if block.language == "yaml")
    shop.sandbox.kubectl("apply", "-f", "-", input=manifest)
    walk(shop.shell(), "README.md", {"make ": lambda command: None})  # getting-started.md has these too


@pytest.mark.long
def test_contributing(shop: Shop):
    shell = shop.shell()
    shell.directory = ROOT
    path = shop.directory / "kubeconfig-flat"

    def kind(_: Command) -> None:
        # as kind writes it: everything in one file
        shell.run(f"kubectl config view --flatten --raw > {path}")

    def tests(command: Command) -> None:
        shell.changes = {
            "KUBECONFIG=kubeconfig": f"KUBECONFIG={path}",
            ".venv/bin/pytest tests/cluster -q": f"{sys.executable} -m pytest -q -p no:cacheprovider {_A_FEW_TESTS}",
        }
        assert " passed" in shell.execute(command)

    walk(shell, "CONTRIBUTING.md", {"kind create cluster": kind, "pytest": tests})


@pytest.mark.long
def test_getting_started(shop: Shop, tmp_path: Path):
    """``make up`` and ``make down`` as the Makefile has them, in another directory; then a server of one's own."""
    page = "docs/guide/getting-started.md"
    shell = shop.shell()
    own = Shell(ROOT, clean_environment(str(Path(sys.executable).parent)))
    printed: list[str] = []

    def up(_: Command) -> None:
        printed.extend(own.run(_recipe("up", tmp_path / "up")).splitlines())

    def export(command: Command) -> None:
        (line,) = (line for line in printed if line.startswith("export "))
        assert pattern(command.bare).search(line)
        own.run(line)

    def run(command: Command) -> None:
        text = command.bare.replace("KUBECONFIG=… ", f"KUBECONFIG={shell.environment['KUBECONFIG']} ")
        environment = {**shell.environment, "SELVEDGE_HTTP_PORT": "0"}
        with subprocess.Popen(["bash", "-c", f"exec env {text}"], env=environment, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            assert b"waiting for the lease" in process.stderr.readline()  # the other one leads
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0

    def wait(command: Command) -> None:
        (manifest,) = (block.text for block in blocks(ROOT / page) if block.language == "yaml")
        for printed_text, real in (
            ("{host: db.example.com}", f"{{host: localhost, port: {shop.postgres.port}}}"),
            ("password: …", f"password: {shop.postgres.password}"),
            ("credentials: {", "tls: {caSecretRef: {name: pg-ca}}\n  credentials: {"),
        ):
            assert printed_text in manifest
            manifest = manifest.replace(printed_text, real)
        shop.sandbox.kubectl("apply", "-f", "-", input=manifest)
        shell.execute(command)

    try:
        walk(
            shell,
            page,
            {
                "make up": up,
                "export KUBECONFIG": export,
                "kubectl get dbsrv,dbs,mig": lambda c: own.execute(c),
                "selvedge run": run,
                "kubectl wait": wait,
            },
        )
    finally:
        own.run(_recipe("down", tmp_path / "up"))


def _recipe(target: str, directory: Path) -> str:
    """What a target of the Makefile does, with its state in ``directory``; without the installation before it."""
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    line = done.stdout.splitlines()[-1].replace(".venv/bin/python", sys.executable)
    if target == "up":
        assert "--keep .sandbox" in line
        return line.replace("--keep .sandbox", f"--keep {directory}")
    assert line.endswith("-m sandbox down")
    return line.replace("-m sandbox down", f"-m sandbox --directory {directory} down")


@pytest.mark.long
def test_servers(shop: Shop):
    roles = [{"name": "susetting", "settings": {"session_replication_role": "replica"}}]
    spec = {"serverRef": {"name": "main-postgres"}, "database": "susetting", "postgres": {"roles": roles}}
    document = {"apiVersion": _GROUP, "kind": "DatabaseSchema", "metadata": {"name": "susetting"}, "spec": spec}
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
def test_install():
    """On a Kubernetes without nodes: everything but what pods do."""
    with Sandbox.start(postgres=(), mongodb=False) as sandbox:
        path = f"{tools.control_plane()}:{tools.helm().parent}"
        directory = Path(sandbox.directory)
        (directory / "charts").symlink_to(ROOT / "charts")
        helm = {f"HELM_{name}_HOME": str(directory / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        shell = Shell(directory, clean_environment(path, KUBECONFIG=str(sandbox.kubeconfig), **helm))

        def install(command: Command) -> None:
            if "watchNamespaces" in command.text:
                shell.run("helm uninstall selvedge --namespace selvedge --no-hooks --wait")
                shell.run("kubectl create namespace shop; kubectl create namespace billing")
            shell.execute(command)

        walk(shell, "docs/guide/install.md", {"helm install": install})
        assert "system:serviceaccount" not in shell.run("kubectl get rolebinding approvers -n shop -o yaml")


def _served(shop: Shop, version: str, last: int, *, count: int = 0) -> Shell:
    """A Postgres of its own with the database declared, and ``work/VERSION/migrations`` up to one of them."""
    server = shop.sandbox.postgres[version]
    shell = shop.shell(server)
    shell.directory = shop.directory.parent / version
    shell.directory.mkdir()
    (shell.directory / "examples").symlink_to(ROOT / "examples")
    migrations = shell.directory / "migrations"
    migrations.mkdir()
    files = sorted(p for p in (ROOT / "migrations" / "postgres").glob("*.sql") if int(p.name[:14]) <= last)
    versions = sorted({p.name[:14] for p in files})[: count or None]
    for path in files:
        if path.name[:14] in versions:
            shutil.copy(path, migrations)
    (shell.directory / "ca.crt").write_text(server.ca)
    url = f"postgresql://postgres@{server.host}:{server.port}/"
    shell.changes = {
        "db.example.com": f"{server.host}:{server.port}",
        "PASSWORD=…": f"PASSWORD={server.password}",
        "deployer@": "postgres@",
        "--url …": f"--url '{url}?sslrootcert=ca.crt'",
    }
    shell.environment["SELVEDGE_PASSWORD"] = server.password
    return shell


@pytest.mark.long
def test_the_command_line(shop: Shop):
    """The operator has nothing to do with this server; Fashion Wallet is made on it from the files."""
    shell = _served(shop, "17", _NEWEST)
    before = dict(shell.changes)

    def plan(command: Command) -> None:
        # there are changes (2) at first; of an export there are none
        shell.execute(command, fails="fashion-wallet.yaml" not in command.text)

    def apply(command: Command) -> None:
        # nobody is there to be asked; tables that no migration has made yet leave grants waiting (2)
        shell.changes = {**before, "selvedge apply": "selvedge apply --yes"}
        shell.execute(command, fails=True)
        shell.changes = before

    def up(command: Command) -> None:
        url = before["--url …"].replace("/?", "/fashion_wallet?")
        shell.run(f"selvedge migrate to 20251007063000 {url} --dir migrations --role fw_owner")
        shell.changes = {**before, "migrate up": "migrate up --role fw_owner"}
        shell.execute(command)

    def export(command: Command) -> None:
        # a database that nobody has claimed, as one is that is to be taken over
        for database in ("postgres", "fashion_wallet"):
            shell.run(f"psql --quiet {database} -c 'DROP SCHEMA selvedge CASCADE'")
        shell.execute(command)

    special = {
        "selvedge plan": plan,
        "selvedge apply": apply,
        "selvedge verify": plan,
        "selvedge export": export,
        "migrate up": up,
    }
    walk(shell, "docs/cli.md", special)


@pytest.mark.long
def test_migrations(shop: Shop):
    page = "docs/guide/migrations.md"
    shell, offline = _in_shop(shop), _served(shop, "16", _NEWEST, count=14)
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
