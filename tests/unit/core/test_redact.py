from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from selvedge.core.redact import Redactor

PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, categories=("L", "N", "P", "S")), min_size=4)


@given(PRINTABLE, st.text(), st.text())
def test_a_known_value_never_remains_however_it_is_written(secret, before, after):
    assume("*" not in secret)
    redactor = Redactor()
    redactor.add(secret)
    for form in (
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        secret.replace("'", "''"),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        base64.b64encode(secret.encode()).decode(),
    ):
        assert form not in redactor.redact(f"{before} {form} {after}")


def test_known_values_are_replaced_anywhere_and_the_longer_one_wins():
    redactor = Redactor()
    for value in ("blue", "blue-green", "lagoon"):
        redactor.add(value)
    assert redactor.redact("xblue-greeny blue lagoon blu") == "x***y *** *** blu"


def test_a_value_stays_known_until_everyone_who_added_it_has_removed_it():
    redactor = Redactor()
    redactor.add("marked")
    redactor.add("marked")
    redactor.remove("marked")
    assert redactor.redact("marked") == "***"
    redactor.remove("marked")
    redactor.remove("marked")
    assert redactor.redact("marked") == "marked"


def test_removing_one_value_keeps_another_that_is_written_alike():
    redactor = Redactor()
    redactor.add("a b+c")
    redactor.add("a%20b%2Bc")
    redactor.remove("a b+c")
    assert redactor.redact("a%20b%2Bc") == "***"


def test_values_below_four_characters_are_ignored():
    redactor = Redactor()
    redactor.add("abc")
    redactor.add("")
    assert redactor.redact("abc") == "abc"


def test_its_repr_shows_no_secret():
    redactor = Redactor()
    redactor.add("marked")
    assert repr(redactor) == "Redactor(1 values)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://u:hunter2@h:5432/d?sslmode=require", "postgresql://u:***@h:5432/d?sslmode=require"),
        ("mongodb+srv://u:a/b@c@h/d", "mongodb+srv://u:***@h/d"),
        ("redis://:hunter2@h", "redis://:***@h"),
        ("ALTER ROLE x PASSWORD 'it''s' VALID UNTIL 'y'", "ALTER ROLE x PASSWORD '***' VALID UNTIL 'y'"),
        ("create role x password E'a\\'b' login", "create role x password '***' login"),
        ("ALTER ROLE x PASSWORD 'cut of", "ALTER ROLE x PASSWORD '***'"),
        ("{'createUser': 'u', 'pwd': 'hunter2', 'roles': []}", "{'createUser': 'u', 'pwd': \"***\", 'roles': []}"),
        ('{"password": "a\\"b", "x": 1}', '{"password": "***", "x": 1}'),
        ("host=h password='a b' user=u", "host=h password=*** user=u"),
        ("h/d?user=u&password=hunter2&x=1", "h/d?user=u&password=***&x=1"),
        ("SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy", "SCRAM-***"),
        ("md5" + "0a" * 16, "md5***"),
        ("Authorization: Bearer abcdefgh.ijkl-mnop", "Authorization: Bearer ***"),
        (
            "x -----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- y",
            "x -----BEGIN RSA PRIVATE KEY----- *** y",
        ),
    ],
)
def test_shapes_of_secrets_are_redacted(text, expected):
    assert Redactor().redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        'password authentication failed for user "app"',
        "secret shop/pg-admin lacks the key password: add it",
        "connect to https://10.0.0.1:6443/api failed",
        "postgresql://pg-rw.shop.svc:5432/fashion_wallet",
        "the server offers SCRAM-SHA-256 only",
    ],
)
def test_ordinary_messages_stay_as_they_are(text):
    assert Redactor().redact(text) == text


def test_thousands_of_secrets_are_all_found():
    redactor = Redactor()
    secrets = [f"pw-{number:05d}-{'x' * (number % 7)}" for number in range(3000)]
    for secret in secrets:
        redactor.add(secret)
    text = redactor.redact(" ".join(secrets))
    assert text == " ".join(["***"] * 3000)
