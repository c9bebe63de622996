"""From the program that came with the chart 0.1.0 to this one: Fashion Wallet live on both engines.

Not only the chart is the older one but the operator too, taken out of the repository's history. What it reconciled, the
new one takes over without a write to a database, with everything Ready throughout; and back.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from sandbox import MongoEndpoint, PostgresEndpoint, Sandbox
from sandbox.wallet import KINDS as WALLET_KINDS
from sandbox.wallet import NAMESPACE, POSTGRES, Wallet
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.release import KINDS, OLD_CHART, ROOT, SECONDS, SHOP, Release, Sightings, release
from tests.cluster.world import condition, unready, verdict, wait_for

#: The program of 0.1.0: the newest revision whose chart is the one of tests/fixtures/charts.
REVISION = "1be946f59912e039bae6f3174114d7fae3edbfaf"
_INTERVAL = "10s"
_PENDING = "held"
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that holds the package ``selvedge`` of 0.1.0."""
    archive = subprocess.run(
        ["git", "archive", REVISION, "operator"], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    if archive.returncode:
        pytest.skip(f"no revision {REVISION[:7]} in this clone (git fetch --unshallow): {archive.stderr.decode()}")
    directory = tmp_path_factory.mktemp("program-0.1.0")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(directory, filter="data")
    path = directory / "operator"
    command = [sys.executable, "-c", "import selvedge; print(selvedge.__file__)"]
    env = {**os.environ, "PYTHONPATH": str(path)}
    shown = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, timeout=60, check=True)
    assert Path(shown.stdout.strip()).is_relative_to(path)  # and not the one that is installed
    return path


@dataclass(slots=True)
class _View:
    """What Fashion Wallet has to know of a sandbox."""

    here: Release

    @property
    def directory(self) -> Path:
        return self.here.directory

    @property
    def postgres(self) -> Mapping[str, PostgresEndpoint]:
        return {POSTGRES: self.here.postgres}

    @property
    def mongodb(self) -> MongoEndpoint:
        return self.here.sandbox.mongodb

    def kubectl(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.here.sandbox.kubectl(*arguments, **options)


def test_the_program_of_0_1_0_hands_over_without_a_write(tmp_path: Path, program: Path) -> None:
    older = {"PYTHONPATH": str(program)}
    with release(tmp_path) as here:
        here.install(OLD_CHART)
        old = here.operator(**older)
        _declare(here)
        _looked_at(here, old)
        assert _unready(here) == {}
        before, uids = _written(here), _uids(here)
        with _ready_throughout(here):
            here.upgrade()
            # the CustomResourceDefinitions are the new ones, the old program goes on for a while
            _looked_at(here, old, wait_for(lambda: _looks(old, "DatabaseSchema")))
            new = here.operator(leading=False)
            assert old.stop() == 0
            wait_for(new.leads, SECONDS)
            _looked_at(here, new)
        assert _written(here) == before
        # back: the older program reads what the new one stored. Its logins wait for the server's first look
        assert new.stop() == 0
        here.helm("rollback", "selvedge", "1")
        again = here.operator(**older)
        _looked_at(here, again)
        wait_for(lambda: not _unready(here), SECONDS)
        assert _written(here) == before
        with _ready_throughout(here):
            here.upgrade()
            assert again.stop() == 0
            last = here.operator()
            _looked_at(here, last)
        assert _written(here) == before
        assert _uids(here) == uids
        # what waits for an approval waits on, and what is asked for now is made
        assert verdict(here.world.api.get("DatabaseSchema", _PENDING))[1] == "WaitingForApproval"
        here.world.api.patch("DatabaseSchema", "fashion-wallet", {"spec": {"interval": "20s"}})
        here.world.schema("after", server="main-postgres", database="after", postgres={"schemas": [{"name": "stock"}]})
        wait_for(lambda: not _unready(here), SECONDS, what=lambda: (_unready(here), last.logs()[-1500:]))
        assert here.world.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'stock'", database="after") == 1


def _declare(here: Release) -> None:
    """Fashion Wallet, and a database whose plan waits for somebody."""
    assert NAMESPACE == SHOP
    wallet = Wallet(cast("Sandbox", _View(here)), interval=_INTERVAL)
    wallet.secrets()
    wallet.migrations()
    auto = "autoApply: true"
    for _, manifest in wallet.manifests():
        # 0.1.0 names a run after its files alone: that of an environment is the same run for this version
        wallet.apply(manifest.replace(auto, f"{auto}\n    environment: development"))
    wallet.wait_ready(WALLET_KINDS, timeout=120)
    assert "development" in {run["spec"]["environment"] for run in here.world.api.list("MigrationRun")}
    schemas = {"schemas": [{"name": "stock"}]}
    here.world.schema(_PENDING, server="main-postgres", database=_PENDING, postgres=schemas, apply="OnApproval")
    wait_for(lambda: verdict(here.world.api.get("DatabaseSchema", _PENDING))[1] == "WaitingForApproval", SECONDS)


@contextmanager
def _ready_throughout(here: Release) -> Iterator[None]:
    """No watch shows anything else meanwhile, and no condition has changed at a moment that the watch missed."""
    since = _since(here)
    with Sightings(here) as sightings:
        yield
    assert [line for line in sightings.not_ready if f"/{_PENDING} " not in line] == []
    assert _since(here) == since


def _unready(here: Release) -> dict[str, Any]:
    found = unready(here.world.api, *KINDS)
    return {name: what for name, what in found.items() if not name.endswith(f"/{_PENDING}")}


def _looked_at(here: Release, operator: OperatorProcess, since: float = 0) -> None:
    """Wait until this operator has looked at every login, and twice at every database."""
    least = {"DatabaseServer": 0, "DatabaseSchema": since + 2 * len(here.world.api.list("DatabaseSchema"))}
    if not since:
        least |= {"DatabaseServer": 1, "DatabaseUser": len(here.world.api.list("DatabaseUser"))}
    for kind, wanted in least.items():
        wait_for(
            lambda kind=kind, wanted=wanted: _looks(operator, kind) >= wanted,
            SECONDS,
            what=lambda: operator.logs()[-1500:],
        )


def _looks(operator: OperatorProcess, kind: str) -> float:
    try:
        return operator.value("selvedge_reconcile_total", kind=kind)
    except OSError:  # it does not get the processor just now
        return 0


def _written(here: Release) -> tuple[int, str]:
    """Statements that write to Postgres, by anybody, and the last entry of MongoDB's log of writes."""
    with here.sandbox.mongodb.client() as client:
        entries = client["local"]["oplog.rs"].find({"op": {"$ne": "n"}, "ns": {"$not": {"$regex": "^config\\."}}})
        last = next(iter(entries.sort("$natural", -1).limit(1)), {})
    return here.writes(), str(last)


def _uids(here: Release) -> dict[str, str]:
    return {f"{k}/{o['metadata']['name']}": o["metadata"]["uid"] for k in KINDS for o in here.world.api.list(k)}


def _since(here: Release) -> dict[str, str]:
    """Since when each is Ready, or is not."""
    objects = {f"{k}/{o['metadata']['name']}": o for k in KINDS for o in here.world.api.list(k)}
    return {name: condition(document)["lastTransitionTime"] for name, document in objects.items()}
