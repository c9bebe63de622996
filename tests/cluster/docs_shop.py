"""The deployment on which the commands of README and docs are executed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sandbox import Sandbox, tools
from sandbox.handles import SandboxPostgres
from tests.cluster.docs_reasons import REASONS, reason
from tests.cluster.docs_support import (
    ROOT,
    Command,
    Shell,
    clean_environment,
    page_of,
)
from tests.cluster.world import wait_for

#: Pages whose commands are executed, each by the test of its name in test_docs_commands.py, test_docs_guides.py or
#: test_docs_chart.py; what they leave out has a reason in docs_reasons.py.
EXECUTED = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/cli.md",
    "docs/fashion-wallet.md",
    "docs/guide/drift-and-deletion.md",
    "docs/guide/getting-started.md",
    "docs/guide/gitops.md",
    "docs/guide/install.md",
    "docs/guide/migrations.md",
    "docs/guide/row-level-security.md",
    "docs/guide/scaling.md",
    "docs/guide/schemas.md",
    "docs/guide/servers.md",
    "docs/guide/upgrade.md",
    "docs/guide/users.md",
)
GROUP = "selvedge.dev/v1alpha1"
NEWEST = 20251115120000  # the newest migration in the examples of the command line


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
        text = yaml.safe_dump_all([{"apiVersion": GROUP, **document} for document in documents])
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
        if reason(command.bare, REASONS):
            continue
        doing = next((do for part, do in special.items() if part in command.bare), None)
        if doing is None:
            shell.execute(command)
        else:
            doing(command)


@contextmanager
def opened(directory: Path) -> Iterator[Shop]:
    """Servers, the operator, and Fashion Wallet as ``docs/fashion-wallet.md`` has it applied by hand."""
    with Sandbox.start(postgres=("18",)) as sandbox:
        sandbox.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        sandbox.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))
        sandbox.supervise("operator", [sys.executable, "-m", "selvedge", "run"], sandbox.environment())
        shop = Shop(sandbox, directory)
        shell = shop.shell(**{"db.example.com": "localhost", "6432": str(shop.postgres.port)})
        late: list[Command] = []
        walk(shell, "docs/fashion-wallet.md", {"wait --for": late.append})
        for command in late:  # the other address of the servers stands below it on the page
            shell.execute(command)
        yield shop


def served(shop: Shop, version: str, last: int, *, count: int = 0) -> Shell:
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
