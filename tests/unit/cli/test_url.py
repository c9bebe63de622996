"""From --url and the password's sources to what an engine logs in with."""

from __future__ import annotations

from pathlib import Path

import pytest

from selvedge.cli.url import target_of
from selvedge.core.errors import InvalidError

KEY = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\ncHVibGlj\n-----END CERTIFICATE-----\n"


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    for name, text in (("ca.crt", CERTIFICATE), ("tls.key", KEY), ("both.pem", KEY + CERTIFICATE)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_postgres() -> None:
    engine, target = target_of("postgresql://a%40b:s%2Fx@h1:6432,[::1]/admin", "", {})
    assert engine == "Postgres"
    assert (target.username, target.password) == ("a@b", "s/x")
    assert target.hosts == (("h1", 6432), ("::1", 5432))
    assert target.maintenance_database == "admin"
    assert target.tls.mode == "VerifyFull"
    assert "s/x" not in repr(target)


def test_mongodb() -> None:
    engine, target = target_of("mongodb://u@h1,h2:27018/shop?replicaSet=rs0&retryWrites=true&w=majority", "p", {})
    assert engine == "MongoDB"
    assert target.hosts == (("h1", 27017), ("h2", 27018))
    assert (target.auth_source, target.replica_set, target.srv) == ("shop", "rs0", False)
    assert target.tls.mode == "VerifyFull"
    _, target = target_of("mongodb+srv://u@cluster.example.com/?authSource=admin", "p", {})
    assert (target.srv, target.auth_source) == (True, "admin")


@pytest.mark.parametrize(
    ("query", "mode"),
    [
        ("sslmode=disable", "Disable"),
        ("sslmode=require", "Require"),
        ("sslmode=require&sslrootcert={ca}", "VerifyCA"),
        ("sslmode=verify-ca&sslrootcert={ca}", "VerifyCA"),
        ("sslmode=verify-full&sslrootcert={ca}", "VerifyFull"),
        ("sslmode=verify-full&sslrootcert=system", "VerifyFull"),
        ("sslrootcert={ca}", "VerifyFull"),
    ],
)
def test_sslmode(pem: Path, query: str, mode: str) -> None:
    _, target = target_of(f"postgresql://u@h/?{query.format(ca=pem / 'ca.crt')}", "", {})
    assert target.tls.mode == mode
    assert target.tls.ca == (CERTIFICATE if "{ca}" in query else "")


@pytest.mark.parametrize(
    ("query", "mode"),
    [
        ("tls=false", "Disable"),
        ("ssl=true", "VerifyFull"),
        ("tls=true&tlsAllowInvalidCertificates=true", "Require"),
        ("tlsAllowInvalidHostnames=true", "VerifyCA"),
    ],
)
def test_tls_of_mongodb(query: str, mode: str) -> None:
    assert target_of(f"mongodb://h/?{query}", "", {})[1].tls.mode == mode


def test_client_certificates(pem: Path) -> None:
    _, target = target_of(f"postgresql://u@h/?sslcert={pem}/ca.crt&sslkey={pem}/tls.key", "", {})
    assert (target.tls.client_certificate, target.tls.client_key) == (CERTIFICATE, KEY)
    _, target = target_of(f"mongodb://u@h/?tlsCertificateKeyFile={pem}/both.pem&tlsCAFile={pem}/ca.crt", "", {})
    assert (target.tls.client_certificate, target.tls.client_key, target.tls.ca) == (CERTIFICATE, KEY, CERTIFICATE)
    assert "c2VjcmV0" not in repr(target)


def test_where_the_password_comes_from() -> None:
    both = {"PGPASSWORD": "theirs", "SELVEDGE_PASSWORD": "ours"}

    def password(url: str, given: str, environ: dict[str, str]) -> str:
        return target_of(url, given, environ)[1].password

    assert password("postgresql://u:url@h", "file", both) == "file"
    assert password("postgresql://u:url@h", "", both) == "url"
    assert password("postgresql://u@h", "", both) == "ours"
    assert password("postgresql://u@h", "", {"PGPASSWORD": "theirs"}) == "theirs"
    assert password("mongodb://u@h", "", {"PGPASSWORD": "theirs"}) == ""
    assert password("postgresql://u@h", "", {}) == ""


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("main-postgres", "is no database URL"),
        ("mysql://u:marked@h/", "is no database URL"),
        ("postgresql://", "is no database URL"),
        ("postgresql://u:marked@h:http/", "no usable host and port"),
        ("postgresql://u:marked@h:70000/", "no usable host and port"),
        ("postgresql://u:mar/ked@h/", "no usable host and port"),
        ("postgresql://u:5/marked@h/", "names no user"),
        ("postgresql://u:marked#x@h/", "no usable host and port"),
        ("postgresql://u:[marked@h/", "cannot be read"),
        ("postgresql://localhost/", "names no user"),
        ("postgresql://u:marked@h/?sslmode=prefer", "sslmode in --url protects nothing or is unknown"),
        ("postgresql://u@h/?channel_binding=require", "not known here, channel_binding: use sslmode, "),
        ("postgresql://u@h/?sslrootcert=/nonexistent", "sslrootcert in --url, /nonexistent, cannot be read: No such"),
        ("mongodb://u:marked@h/?tls=yes", "tls in --url is neither true nor false"),
    ],
)
def test_a_wrong_url_is_named_and_never_shown(url: str, message: str) -> None:
    with pytest.raises(InvalidError) as caught:
        target_of(url, "", {})
    assert message in caught.value.message
    assert "marked" not in caught.value.message
