"""SCRAM-SHA-256 by the vectors of the RFCs, and by what libpq makes of the same passwords."""

from __future__ import annotations

import base64
import hashlib
import hmac

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selvedge.core.scram import ITERATIONS, derive, normalized, saslprep, verifier, verifies


def test_the_exchange_of_rfc_7677_is_proved_by_our_keys():
    """Section 3: user "user", password "pencil"."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    keys = derive(b"pencil", salt, 4096)
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    message = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}".encode()
    server_signature = hmac.digest(keys.server, message, "sha256")
    assert base64.b64encode(server_signature) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client_signature = hmac.digest(keys.stored, message, "sha256")
    client_key = bytes(a ^ b for a, b in zip(proof, client_signature, strict=True))
    assert hashlib.sha256(client_key).digest() == keys.stored


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),  # the five of RFC 4013, section 3
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
    ],
)
def test_saslprep_as_the_rfc_shows_it(text: str, prepared: str):
    assert saslprep(text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u06271", "a\u0627", "\ue000", "\u0221", "x\ufdd0"])
def test_saslprep_refuses_without_repeating_the_password(text: str):
    with pytest.raises(ValueError, match="the password") as refused:
        saslprep(text)
    assert text not in str(refused.value)
    assert normalized(text) == text.encode(), "Postgres takes it as it is"


@pytest.mark.parametrize(
    "password", ["pencil", "pässwörd Ⅸ", "x\u00ad y", "\u0221raw", "%'\"\\$ {}&@/é", "ゲーム", "\u00ad"]
)
def test_libpq_comes_to_the_same_verifier(password: str):
    theirs = psycopg.pq.PGconn.connect_start(b"").encrypt_password(password.encode(), b"u", b"scram-sha-256").decode()
    assert verifies(password, theirs)
    salt = base64.b64decode(theirs.split("$")[1].split(":")[1])
    assert verifier(password, salt=salt) == theirs


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=20))
def test_a_password_and_only_it_is_its_verifiers(password: str):
    made = verifier(password, salt=b"0123456789abcdef", iterations=4)
    assert verifies(password, made)
    assert not verifies(password + "x", made)


def test_two_verifiers_of_one_password_differ_and_both_hold():
    one, other = verifier("pencil"), verifier("pencil")
    assert one != other
    assert one.startswith(f"SCRAM-SHA-256${ITERATIONS}:")
    assert verifies("pencil", one)
    assert verifies("pencil", other)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "",
        "md5c5d1be9e0f9f8b1f1c7d7b1a2c3d4e5f",
        "SCRAM-SHA-256$",
        "SCRAM-SHA-256$x:AA==$AA==:AA==",
        "SCRAM-SHA-256$0:AA==$AA==:AA==",
        "SCRAM-SHA-256$99999999999:AA==$AA==:AA==",
        "SCRAM-SHA-1$4096:AA==$AA==:AA==",
        "SCRAM-SHA-256$4096:!$AA==:AA==",
    ],
)
def test_what_is_no_verifier_is_nobodys(stored: str | None):
    assert not verifies("pencil", stored)


def test_keys_show_nothing():
    assert repr(derive(b"pencil", b"salt", 1)) == "Keys()"
