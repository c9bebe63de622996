"""What is read from files, and how what is wrong in them is named."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from selvedge.cli.offline import request
from selvedge.core.errors import InvalidError

ROOT = Path(__file__).resolve().parents[3]
POSTGRES = "postgresql://selvedge@localhost/"
MONGODB = "mongodb://selvedge@localhost/"


def schema(name: str = "fashion-wallet", server: str = "main-postgres", more: str = "", namespace: str = "shop") -> str:
    where = f", namespace: {namespace}" if namespace else ""
    return f"""\
apiVersion: selvedge.dev/v1alpha1
kind: DatabaseSchema
metadata: {{name: {name}{where}}}
spec:
  serverRef: {{name: {server}}}
  database: fashion_wallet
  postgres: {{schemas: [{{name: shared}}]}}
  {more}
"""


Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def call(*documents: str, name: str = "all.yaml") -> str:
        path = tmp_path / name
        path.write_text("---\n".join(documents), encoding="utf-8")
        return str(path)

    return call


def read(*paths: str, url: str = POSTGRES, **options: str):
    notes: list[str] = []
    found = request(paths=paths, url=url, environ={}, note=notes.append, **options)
    return found, notes


def failure(*paths: str, **options: str) -> str:
    with pytest.raises(InvalidError) as caught:
        read(*paths, **options)
    return caught.value.message


def test_documents_of_all_files_become_one_unit_for_each_database(write: Write, tmp_path: Path) -> None:
    write(schema(), schema("catalog"), "", "apiVersion: v1\nkind: Secret\n", name="a.yaml")
    write(schema("billing").replace("fashion_wallet", "billing"), name="b.yml")
    write("not: read", name="c.txt")
    found, notes = read(str(tmp_path))
    assert [(unit.database, [m.name for m in unit.members]) for unit in found.units] == [
        ("fashion_wallet", ["fashion-wallet", "catalog"]),
        ("billing", ["billing"]),
    ]
    assert found.units[0].members[0].uid == "cli:shop/fashion-wallet"
    assert found.units[0].cluster == "cli"
    assert notes == ["left out, only DatabaseSchemas are used here: Secret"]


def test_what_the_cluster_gave_is_kept(write: Write) -> None:
    """Files from `kubectl get -o yaml` claim in the name of the very resource."""
    path = write(
        "kind: List\napiVersion: v1\nitems:\n- apiVersion: selvedge.dev/v1alpha1\n  kind: DatabaseSchema\n"
        "  metadata: {name: a, namespace: shop, uid: 5c0e, generation: 3, creationTimestamp: 2026-01-01T00:00:00Z}\n"
        "  spec: {serverRef: {name: s}, database: d, postgres: {}}\n"
    )
    found, _ = read(path, cluster="1b7c")
    [unit] = found.units
    [member] = unit.members
    assert (unit.cluster, member.uid, member.generation, member.created) == ("1b7c", "5c0e", 3, "2026-01-01T00:00:00Z")


def test_standard_input_and_default_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(schema(namespace="")))
    found, _ = read("-", namespace="billing")
    assert found.units[0].members[0].namespace == "billing"


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (
            ["kind: ConfigMap\n", schema(more="owner: me")],
            "all.yaml, document 2: DatabaseSchema fashion-wallet: spec.owner: unknown",
        ),
        ([schema().replace("v1alpha1", "v9")], "document 1: DatabaseSchema has apiVersion 'selvedge.dev/v9': write"),
        ([schema(), schema()], "document 2: DatabaseSchema shop/fashion-wallet stands in "),
        ([schema(more="database: other")], "all.yaml, line 8: is no valid YAML: key 'database' stands twice"),
        (["a: [b"], "is no valid YAML: "),
        (["a: \x01"], "is no valid YAML: "),
        (["- a"], "document 1: is no mapping"),
        (["apiVersion: v1\nkind: Secret"], "no DatabaseSchema in "),
        (
            [schema(), schema("other", "second")],
            "several DatabaseServers, shop/main-postgres, shop/second: choose with",
        ),
        ([schema(more="suspend: true")], "no DatabaseSchema is left for a Postgres server"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_document(write: Write, documents: list[str], message: str) -> None:
    assert message in failure(write(*documents))


def test_what_no_version_acts_on_yet_is_named(write: Write) -> None:
    roles = "mongodb: {roles: [{name: reader, roles: [{role: read}]}]}"
    document = schema().replace("postgres: {schemas: [{name: shared}]}", roles)
    message = failure(write(document), url="mongodb://admin@localhost:27017/?tls=false")
    assert "this version does not act on spec.mongodb.roles yet: remove it" in message


def test_an_error_in_yaml_shows_nothing_of_the_file(write: Write) -> None:
    text = failure(write("kind: Secret\nstringData: {password: marked-secret, other: [}"))
    assert "line 2" in text
    assert "marked-secret" not in text


def test_one_of_several_servers_is_chosen(write: Write) -> None:
    path = write(schema(), schema("other", "second"))
    for name in ("second", "shop/second"):
        found, _ = read(path, server=name)
        assert [member.name for member in found.units[0].members] == ["other"]
    assert "no DatabaseSchema is of DatabaseServer third" in failure(path, server="third")


def test_a_password_on_the_command_line_is_noted(write: Write) -> None:
    _, notes = read(write(schema()), url="postgresql://selvedge:marked@localhost/")
    [note] = notes
    assert "--password-file" in note
    assert "marked" not in note


@pytest.mark.parametrize(("url", "database"), [(POSTGRES, "fashion_wallet"), (MONGODB, "fashion-wallet-main")])
def test_fashion_wallets_manifests_serve_both_engines(url: str, database: str) -> None:
    found, notes = read(str(ROOT / "examples" / "fashion-wallet"), url=url)
    assert [unit.database for unit in found.units] == [database]
    assert any(note.endswith(f"left out, since --url is a {found.engine} server") for note in notes)
    assert any(note.startswith("left out, only DatabaseSchemas are used here:") for note in notes)
