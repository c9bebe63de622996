"""Every command in README and docs is executed, and prints what the page says; or it stands here with its reason.

Page by page, in the order of the page, on a Kubernetes API server, Postgres and MongoDB of their own, with the operator
as a process. What a page takes for granted (a resource that waits, a changed table) is made right before its command.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import Sandbox
from tests.cluster.docs_reasons import INLINE, REASONS, SHOWN, Elsewhere, reason
from tests.cluster.docs_shop import EXECUTED, NEWEST, Shop, opened, served, walk
from tests.cluster.docs_support import (
    ROOT,
    Command,
    Shell,
    all_commands,
    blocks,
    clean_environment,
    inline_commands,
    page_of,
    pattern,
)

pytestmark = pytest.mark.xdist_group("docs")

#: Instead of all of tests/cluster, on a cluster that is named by SELVEDGE_KUBECONFIG; the last has operators.
_A_FEW_TESTS = " ".join(f"tests/cluster/test_{name}.py" for name in ("kube_client", "lease", "suspend"))


def test_each_command_is_executed_or_has_a_reason():
    """A page with a new command: give it a test, or the command a reason in docs_reasons.py."""
    left = [c for c in all_commands() if c.page not in EXECUTED and not reason(c.bare, REASONS)]
    assert left == []
    assert [name for name in EXECUTED if not page_of(name)] == [], "pages without any command"


def test_each_command_within_a_text_is_executed_or_has_a_reason():
    """Put it into a block, where a test executes it; or give it a reason."""
    executed = {" ".join(command.bare.split()) for command in all_commands()}
    assert [c for c in inline_commands() if c.text not in executed and not reason(c.text, INLINE)] == []


@pytest.mark.parametrize(("table", "found"), [(REASONS, all_commands), (INLINE, inline_commands)])
def test_each_reason_is_one(table, found):
    """It is of a command that stands on a page; and a test that is named is there and holds the command."""
    texts = [command.bare for command in found()]
    assert [key for key in table if not any(reason(text, {key: "a"}) for text in texts)] == [], "reasons for nothing"
    assert [fault for why in table.values() if isinstance(why, Elsewhere) for fault in why.missing()] == []


def test_a_printed_line_stands_for_others_of_its_kind():
    line = "2s   Warning   DriftCorrected   databaseschema/shop   sha256:32ec… and 0.03 s at 2026-12-21T06:40:11Z"
    like = "17m Warning DriftCorrected databaseschema/shop sha256:aa00ff and 1.5 s at 2027-01-01T00:00:00Z"
    assert pattern(line).search(like)
    assert not pattern(line).search(like.replace("shop", "outlet"))


@pytest.mark.parametrize("command", [c for c in all_commands() if c.bare.startswith("make ")], ids=lambda c: c.bare)
def test_every_target_of_make_exists(command: Command):
    if command.bare in ("make test-long", "make clean"):
        # a recipe that calls make again runs it even in a dry run
        assert f"\n{command.bare.removeprefix('make ')}: " in (ROOT / "Makefile").read_text()
        return
    done = subprocess.run(
        ["make", "--dry-run", *command.bare.split()[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Fashion Wallet as ``docs/fashion-wallet.md`` has it applied by hand."""
    with opened(tmp_path_factory.mktemp("docs") / "work") as made:
        yield made


@pytest.fixture
def empty() -> Iterator[Sandbox]:
    """A cluster that holds nothing."""
    with Sandbox.start(postgres=(), mongodb=False) as sandbox:
        yield sandbox


@pytest.mark.long
def test_fashion_wallet_by_hand(shop: Shop):
    assert "False" not in shop.kubectl("get", "dbsrv,dbs,mig,dbu", "-n", "shop")


@pytest.mark.long
def test_readme(shop: Shop):
    (manifest,) = (block.text for block in blocks(ROOT / "README.md") if block.language == "yaml")
    shop.sandbox.kubectl("apply", "-f", "-", input=manifest)
    walk(shop.shell(), "README.md", {"make ": lambda command: None})  # getting-started.md has these too


@pytest.mark.long
def test_what_only_shows_something(shop: Shop):
    """Within the texts; what a page leaves open is put in."""
    names = {
        "kubectl get -o": "kubectl get dbs -o",
        "get … ": "get deployments ",
        "NAMESPACE": "shop",
        "NAME": "fashion-wallet",
        "REASON": "Conflict",
        "--watch": "--watch --request-timeout=2s",
    }
    shell = shop.shell(**names)
    shell.environment["KUBECONFIG"] = str(shop.directory / "kubeconfig-shown")
    shell.run(f"cp {shop.sandbox.kubeconfig} $KUBECONFIG; kubectl config set-context --current --namespace shop")
    found = {command.text: command for command in inline_commands() if reason(command.text, INLINE) is SHOWN}
    assert len(found) >= 15
    for command in found.values():
        shell.execute(command)


@pytest.mark.long
def test_contributing(shop: Shop, empty: Sandbox, tmp_path: Path):
    shell = shop.shell()
    shell.directory = ROOT
    path = tmp_path / "kubeconfig"

    def kind(_: Command) -> None:
        # as kind writes it: everything in one file
        shell.run(f"KUBECONFIG={empty.kubeconfig} kubectl config view --flatten --raw > {path}")

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

    def install(command: Command) -> None:
        # the resources are there already, and its policy would hold for the other pages too
        shell.changes = {"helm install": "helm install --set crds.install=false"}
        shell.execute(command)
        shell.run("helm uninstall selvedge --namespace selvedge --no-hooks --wait")

    def pip(command: Command) -> None:
        # what it depends on and what builds it are here already, and its environment stays as it is
        target = f"--no-deps --no-build-isolation --disable-pip-version-check --target {tmp_path / 'pip'}"
        shell.changes = {command.bare: f"{sys.executable} -m {command.bare.replace(' .', f' {target} {ROOT}')}"}
        shell.execute(command)
        made = tmp_path / "pip"
        assert shell.run(f"PYTHONPATH={made} {made}/bin/selvedge --version").startswith("selvedge ")
        assert list(made.glob("selvedge/core/*.py"))

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
                "helm install": install,
                "pip install": pip,
                "selvedge run": run,
                "kubectl wait": wait,
            },
        )
    finally:
        own.run(_recipe("down", tmp_path / "up"))


def _recipe(target: str, directory: Path) -> str:
    """What a target of the Makefile does, with its state in ``directory``; without the installation before it."""
    command = ["make", "--no-print-directory", "--dry-run", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    line = done.stdout.splitlines()[-1].replace(".venv/bin/python", sys.executable)
    if target == "up":
        assert "--keep .sandbox" in line
        return line.replace("--keep .sandbox", f"--keep {directory}")
    assert line.endswith("-m sandbox down")
    return line.replace("-m sandbox down", f"-m sandbox --directory {directory} down")


@pytest.mark.long
def test_the_command_line(shop: Shop):
    """The operator has nothing to do with this server; Fashion Wallet is made on it from the files."""
    shell = served(shop, "17", NEWEST)
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
