"""Every way in which a connection can fail has its own reason, and no password is in any text."""

from __future__ import annotations

import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sandbox import PostgresEndpoint
from sandbox.pki import Authority
from sandbox.postgres import PostgresServer
from selvedge.core.errors import InvalidError, NotPermittedError, SelvedgeError, TransientError
from selvedge.core.reasons import Reason
from selvedge.engines.base import TlsOptions
from selvedge.engines.postgres.probe import check_version
from tests.engines.postgres_support import converge, engine, limits, member, only, reasons, rows, run, target

pytestmark = pytest.mark.engines


@contextmanager
def silent() -> Iterator[int]:
    """A port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for one in held:
            one.close()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def failure(postgres: PostgresEndpoint, **changes: Any) -> SelvedgeError:
    """The error of a probe, after having looked for the password in all that can be printed."""
    changes = {"limits": limits(connect_timeout=1.0), **changes}
    secret = target(postgres, **changes).password
    errors = []
    async with engine(postgres, **changes) as server:
        for call in (server.probe(), converge(server, member("nowhere"))):
            with pytest.raises(SelvedgeError) as caught:
                await call
            text = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(server.target)
            assert secret not in text
            assert "Traceback" in text
            errors.append(caught.value)
    probed, converged = errors
    assert probed.reason is converged.reason
    return probed


async def test_a_wrong_password(postgres: PostgresEndpoint) -> None:
    error = await failure(postgres, password="wrong-and-secret")
    assert (type(error), error.reason) == (InvalidError, Reason.AUTHENTICATION_FAILED)
    assert "spec.credentials" in error.message


async def test_a_login_that_does_not_exist(postgres: PostgresEndpoint) -> None:
    assert (await failure(postgres, username="nobody-here")).reason is Reason.AUTHENTICATION_FAILED


async def test_a_certificate_of_another_authority(postgres: PostgresEndpoint, tmp_path: Any) -> None:
    other = Authority(tmp_path / "pki", "another")
    error = await failure(postgres, tls=TlsOptions("VerifyFull", other.certificate_path.read_text()))
    assert (type(error), error.reason) == (InvalidError, Reason.TLS_VERIFICATION_FAILED)


async def test_a_host_that_does_not_resolve(postgres: PostgresEndpoint) -> None:
    error = await failure(postgres, hosts=(("no-such-host.invalid", 5432),))
    assert (type(error), error.reason) == (TransientError, Reason.HOST_NOT_FOUND)


async def test_a_port_that_is_closed(postgres: PostgresEndpoint) -> None:
    port = closed_port()
    error = await failure(postgres, hosts=(("127.0.0.1", port),))
    assert (type(error), error.reason) == (TransientError, Reason.UNREACHABLE)
    assert f"127.0.0.1:{port}" in error.message


async def test_a_server_that_accepts_and_says_nothing(postgres: PostgresEndpoint) -> None:
    with silent() as port:
        error = await failure(postgres, hosts=(("127.0.0.1", port),))
    assert (type(error), error.reason) == (TransientError, Reason.CONNECTION_TIMEOUT)


async def test_a_server_without_tls() -> None:
    with PostgresServer.launch("18") as server:
        run(server, "ALTER SYSTEM SET ssl = off")
        server.restart()
        error = await failure(server)
        assert (type(error), error.reason) == (InvalidError, Reason.TLS_UNAVAILABLE)


async def test_a_standby_is_not_written_to() -> None:
    one = member("shop", {"schemas": [{"name": "shared"}]})
    with PostgresServer.launch("18") as primary, PostgresServer.standby_of(primary) as standby:
        async with engine(standby, read_replicas=((primary.host, primary.port),)) as server:
            facts = await server.probe()
            assert facts.role == "Standby"
            with pytest.raises(TransientError) as caught:
                await converge(server, one)
            assert caught.value.reason is Reason.STANDBY
        replicas = ((standby.host, standby.port), ("127.0.0.1", closed_port()))
        async with engine(primary, read_replicas=replicas) as server:
            facts = await server.probe()
            assert [replica.state for replica in facts.replicas] == ["Streaming", "Unreachable"]
            assert facts.role == "Primary"
            assert facts.missing_privileges == ()


async def test_a_login_that_may_not_make_roles(postgres: PostgresEndpoint, database_name: str) -> None:
    login, secret = f"{database_name}_login", "not-for-any-text"
    run(postgres, f"CREATE ROLE {login} LOGIN PASSWORD '{secret}'")
    spec = {"roles": [{"name": f"{database_name}_a"}], "schemas": [{"name": "shared"}]}
    async with engine(postgres, username=login, password=secret) as server:
        facts = await server.probe()
        assert facts.missing_privileges == (
            f'ALTER ROLE "{login}" CREATEROLE',
            f'ALTER ROLE "{login}" CREATEDB',
            f'GRANT CREATE ON DATABASE "postgres" TO "{login}"',
            f'GRANT pg_signal_backend TO "{login}"',
        )
        with pytest.raises((NotPermittedError, SelvedgeError)) as caught:
            await converge(server, member(database_name, spec))
        assert caught.value.reason in (Reason.INSUFFICIENT_PRIVILEGES, Reason.CONFLICT)
    maintenance = f"{database_name}_m"
    run(postgres, f"CREATE DATABASE {maintenance} OWNER {login}")
    try:
        async with engine(postgres, username=login, password=secret, maintenance_database=maintenance) as server:
            result = await only(server, member(database_name, spec))
            assert reasons(result) == {
                f"role {database_name}_a": "InsufficientPrivileges",
                f"database {database_name}": "InsufficientPrivileges",
            }
            assert not result.provisioned
            run(postgres, f"ALTER ROLE {login} CREATEROLE CREATEDB; GRANT pg_signal_backend TO {login}")
            again = await only(server, member(database_name, spec))
            assert again.verified, again.problems
            assert (await only(server, member(database_name, spec))).applied == ()
            assert (await server.probe()).missing_privileges == ()
    finally:
        run(postgres, f"DROP DATABASE IF EXISTS {maintenance} WITH (FORCE)")
    assert rows(postgres, "SELECT rolsuper FROM pg_roles WHERE rolname = %s", login) == [(False,)]


async def test_a_maintenance_database_that_does_not_exist(postgres: PostgresEndpoint) -> None:
    error = await failure(postgres, maintenance_database="no_such_database")
    assert (type(error), error.reason) == (InvalidError, Reason.INVALID_SPEC)
    assert "spec.postgres.maintenanceDatabase" in error.message


@pytest.mark.parametrize(("number", "version"), [(140012, "14.12"), (90624, "9.6.24")])
def test_a_server_that_is_too_old_is_named(number: int, version: str) -> None:
    with pytest.raises(InvalidError, match=f"Postgres {version}; 15 or newer") as caught:
        check_version(number, version)
    assert caught.value.reason is Reason.UNSUPPORTED_VERSION
    check_version(150000, "15.0")


async def test_another_server_at_the_same_address_is_not_written_to(
    postgres: PostgresEndpoint, database_name: str
) -> None:
    async with engine(postgres) as server:
        server._system_identifier = "1"
        with pytest.raises(InvalidError) as caught:
            await converge(server, member(database_name, {"schemas": [{"name": "shared"}]}))
        assert caught.value.reason is Reason.SERVER_REPLACED
    assert rows(postgres, "SELECT FROM pg_database WHERE datname = %s", database_name) == []
