"""Migrations in a container image that holds nothing else: read by a pod, run by the operator."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sandbox.node_wallet import NodeWallet, helm
from sandbox.wallet import wait_until
from selvedge.core.conditions import find

if TYPE_CHECKING:
    from sandbox.node import NodeHandle

REFERENCE = "localhost/migrations:1"
FILES = {
    "app/migrations/20250101000000_users.sql": "-- migrate:up\nCREATE TABLE users (id int);\n"
    "-- migrate:down\nDROP TABLE users;\n",
    "app/migrations/seeds/users.sql": "-- env: test\nINSERT INTO users VALUES (1);\n",
    "app/migrations/README.md": "beside them\n",
    "etc/ld.so.preload": "/none.so\n",
}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))


def scratch(path: Path, files: dict[str, str]) -> Path:
    """An image of these files and nothing else: no shell, no program, and an entry point that does not exist."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name, text in files.items():
            _add(archive, name, text.encode())
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/none"], "Env": ["LD_PRELOAD=/none.so", "LD_AUDIT=/none.so", "PYTHONHOME=/none"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [REFERENCE], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, "layer.tar", layer.getvalue())
        _add(archive, "config.json", json.dumps(config).encode())
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    return path


@pytest.fixture
def wallet(node: NodeHandle, operator_image: Path, clean_databases: None, node_namespace: str) -> Iterator[NodeWallet]:
    settings = (f"watchNamespaces={{{node_namespace}}}", "migrationImages.enabled=true", "replicas=1")
    wallet = NodeWallet(node, settings=settings, archive=operator_image)
    wallet.namespace = f"selvedge-{uuid.uuid4().hex[:6]}"
    wallet.install()
    wallet.start_operator()
    yield wallet
    node.kubectl("delete", "mig,dbs,dbsrv", "--all", "-n", node_namespace, "--timeout=60s", check=False, timeout=90)
    helm(node, "uninstall", "selvedge", "--namespace", wallet.namespace, "--wait")
    node.kubectl("delete", "namespace", wallet.namespace, "--wait=false")


def test_migrations_are_read_from_an_image_that_holds_nothing_else(
    node: NodeHandle, wallet: NodeWallet, node_namespace: str, tmp_path: Path
):
    node.import_image(scratch(tmp_path / "migrations.tar", FILES))

    def apply(kind: str, name: str, **spec: Any) -> None:
        document = {"apiVersion": "selvedge.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        node.kubectl("apply", "-n", node_namespace, "-f", "-", input=yaml.safe_dump(document))

    def run(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(node.kubectl("get", "mig", name, "-n", node_namespace, "-o", "json").stdout)
        return found

    def told(name: str) -> tuple[str, str]:
        ready = find((run(name).get("status") or {}).get("conditions") or (), "Ready")
        return (str(ready.reason), ready.message) if ready else ("", "")

    def until(name: str, reason: str, message: str = "") -> None:
        def reached() -> bool:
            found = told(name)
            return found[0] == reason and message in found[1]

        try:
            wait_until(reached, f"{name} is not {reason}", 120)
        except Exception as error:
            pods = node.kubectl("get", "pods,jobs", "-n", node_namespace, "-o", "wide", check=False).stdout
            raise AssertionError(f"{error}; {told(name)}\n{pods}") from error

    secrets = {"username": node.postgres.username, "password": node.postgres.password, "ca.crt": node.postgres.ca}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "admin"}, "stringData": secrets}
    node.kubectl("apply", "-n", node_namespace, "-f", "-", input=yaml.safe_dump(secret))
    apply(
        "DatabaseServer",
        "main",
        engine="Postgres",
        hosts=[{"host": node.postgres_host, "port": 5432}],
        credentials={"secretRef": {"name": "admin"}},
        tls={"mode": "VerifyFull", "caSecretRef": {"name": "admin", "key": "ca.crt"}},
    )
    image = {"reference": REFERENCE, "path": "/app/migrations"}
    apply(
        "DatabaseSchema",
        "shop",
        serverRef={"name": "main"},
        database="shop_of_images",
        postgres={"owner": "images_owner", "roles": [{"name": "images_owner"}]},
        migrations={"source": {"image": image}, "environment": "test"},
    )
    ready = ("wait", "--for=condition=Ready", "dbs/shop", "-n", node_namespace, "--timeout=120s")
    node.kubectl(*ready, timeout=130)
    with node.postgres.connect("shop_of_images") as connection:
        assert connection.execute("SELECT tableowner::text FROM pg_tables WHERE tablename = 'users'").fetchall() == [
            ("images_owner",)
        ]
        assert connection.execute("SELECT count(*) FROM users").fetchall() == [(1,)], "a directory below came along"
    [made] = json.loads(node.kubectl("get", "mig", "-n", node_namespace, "-o", "json").stdout)["items"]
    assert made["status"]["phase"] == "Succeeded"
    wait_until(
        lambda: not json.loads(node.kubectl("get", "jobs", "-n", node_namespace, "-o", "json").stdout)["items"],
        "the job of a run that is over goes",
        30,
    )

    # a directory that is not there, and an image that cannot be had
    other = {"image": {**image, "path": "/other"}}
    apply("MigrationRun", "elsewhere", schemaRef={"name": "shop"}, action="Plan", source=other)
    until("elsewhere", "InvalidMigration", "/other cannot be read (No such file or directory)")
    missing = {"image": {"reference": "localhost:1/none:1"}}
    apply("MigrationRun", "missing", schemaRef={"name": "shop"}, action="Plan", source=missing)
    until("missing", "WaitingForSource", "image localhost:1/none:1: ErrImagePull")
