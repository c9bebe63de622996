"""The Secret's keys, for every kind of server and for awkward passwords."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from psycopg.conninfo import conninfo_to_dict
from pymongo.uri_parser import parse_uri

from selvedge.core.binding import KEYS, Endpoint, Login, compose, content_hash, render
from selvedge.core.errors import InvalidError

AWKWARD = "p:a/s?s#w[o]r@d%20 &=+é'\"\\"
LOGIN = Login("us er@x", AWKWARD)
POSTGRES = Endpoint(False, (("pg-1", 5432), ("::1", 5433)), "my db/x", "VerifyFull", "PEM", (("ro", 5434),))
MONGODB = Endpoint(True, (("m1", 27017), ("m2", 27018)), "fashion-wallet", "VerifyFull", "PEM", replica_set="rs0")


def test_libpq_reads_our_uri():
    found = conninfo_to_dict(compose(POSTGRES, LOGIN)["uri"])
    assert found == {
        "user": "us er@x",
        "password": AWKWARD,
        "host": "pg-1,::1",
        "port": "5432,5433",
        "dbname": "my db/x",
        "sslmode": "verify-full",
        "target_session_attrs": "read-write",
    }
    assert conninfo_to_dict(compose(POSTGRES, LOGIN)["readonly-uri"])["host"] == "ro"


def test_the_driver_reads_our_mongodb_uri():
    found = parse_uri(compose(MONGODB, LOGIN)["readonly-uri"])
    assert found["nodelist"] == [("m1", 27017), ("m2", 27018)]
    assert (found["username"], found["password"], found["database"]) == ("us er@x", AWKWARD, "fashion-wallet")
    options = {name.lower(): value for name, value in found["options"].items()}
    assert (options["authsource"], options["replicaset"], options["tls"]) == ("fashion-wallet", "rs0", True)
    assert options["readpreference"] == "secondaryPreferred"


def test_jdbc_parameters_hold_the_login():
    uri = compose(POSTGRES, LOGIN)["jdbc-uri"]
    assert uri.startswith("jdbc:postgresql://pg-1:5432,[::1]:5433/my%20db%2Fx?")
    found = parse_qs(urlsplit(uri.removeprefix("jdbc:")).query)
    assert (found["user"], found["password"]) == (["us er@x"], [AWKWARD])


def test_all_keys_are_there():
    assert set(KEYS) == set(compose(POSTGRES, LOGIN))
    assert set(KEYS) - {"jdbc-uri"} == set(compose(MONGODB, LOGIN))


@pytest.mark.parametrize(
    ("mode", "sslmode", "tls"),
    [("Disable", "disable", False), ("Require", "require", True), ("VerifyCA", "verify-ca", True)],
)
def test_tls_as_the_server_has_it(mode: str, sslmode: str, tls: bool):
    assert f"sslmode={sslmode}" in compose(Endpoint(False, (("h", 1),), "d", mode), LOGIN)["uri"]
    assert parse_uri(compose(Endpoint(True, (("h", 1),), "d", mode), LOGIN)["uri"])["options"]["tls"] is tls


def test_srv_and_no_password():
    endpoint = Endpoint(True, (("cluster.example.org", 27017),), "d", srv=True)
    assert compose(endpoint, Login("u", ""))["uri"].startswith("mongodb+srv://u@cluster.example.org/d?")
    assert "password" not in compose(POSTGRES, Login("u", ""), env_keys=True)
    assert "PGPASSWORD" not in compose(POSTGRES, Login("u", ""), env_keys=True)
    assert unquote(urlsplit(compose(POSTGRES, LOGIN)["uri"]).username or "") == "us er@x"


def test_only_a_key_in_parentheses_is_replaced_and_what_was_put_in_is_not_looked_at():
    data = {"a": "$(b)", "b": "x", "ca.crt": "pem"}
    assert render("$(a) $$(b) $b ${b} %(b) {b} $(ca.crt) $() $", data, "t") == "$(b) $(b) $b ${b} %(b) {b} pem $() $"
    with pytest.raises(InvalidError, match=r"template\.t names \$\(c\).*a, b, ca\.crt"):
        render("$(c)", data, "t")


def test_a_template_takes_no_key_that_is_taken():
    with pytest.raises(InvalidError, match="has the key uri"):
        compose(POSTGRES, LOGIN, template={"uri": "x"})
    with pytest.raises(InvalidError, match="has the key PGHOST"):
        compose(POSTGRES, LOGIN, template={"PGHOST": "x"})
    assert compose(POSTGRES, LOGIN, template={"DSN": "$(host):$(port)"})["DSN"] == "pg-1:5432"


def test_the_hash_knows_each_key():
    assert content_hash({"a": "1", "b": "2"}) == content_hash({"b": "2", "a": "1"})
    assert len({content_hash({"a": "1"}), content_hash({"a": "2"}), content_hash({"b": "1"})}) == 3


def test_no_password_in_a_repr():
    assert AWKWARD not in repr(LOGIN)
