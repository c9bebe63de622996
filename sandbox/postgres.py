"""Postgres servers: the real program, with TLS and passwords, usable on their own in a test."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from sandbox import tools
from sandbox.errors import SandboxError
from sandbox.pki import Authority
from sandbox.ports import LOOPBACK, on_free_port
from sandbox.process import Daemon, run, unprivileged_ids
from sandbox.server import OwnServer, server_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

_START_SECONDS = 60.0
# fsync is off because nothing here has to survive the machine, only the process; bench/ turns it on again.
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "ssl": "on",
    "password_encryption": "scram-sha-256",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "logical",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
}
_HBA = """\
host  all          all  127.0.0.1/32  scram-sha-256
host  replication  all  127.0.0.1/32  scram-sha-256
"""


@dataclass(slots=True)
class PostgresEndpoint:
    """Where a Postgres server answers, and its administrator's login."""

    version: str
    port: int
    password: str = field(repr=False)
    ca_path: Path | None
    host: str = "localhost"
    username: str = "postgres"
    log_path: Path | None = None
    sslmode: str = "verify-full"

    @property
    def ca(self) -> str:
        """The CA's certificate as PEM text; empty when the server has none of ours."""
        return self.ca_path.read_text(encoding="utf-8") if self.ca_path else ""

    def conninfo(self, dbname: str = "postgres", **parameters: Any) -> str:
        """A libpq connection string for the administrator; ``parameters`` override any part of it."""
        known: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "user": self.username,
            "password": self.password,
            "dbname": dbname,
            "sslmode": self.sslmode,
            "connect_timeout": 30,
        }
        if self.ca_path:
            known["sslrootcert"] = str(self.ca_path)
        return make_conninfo(**{**known, **parameters})

    def connect(self, dbname: str = "postgres", **parameters: Any) -> psycopg.Connection[Any]:
        """An autocommit connection of the administrator."""
        return psycopg.connect(self.conninfo(dbname, **parameters), autocommit=True)

    def psql(self, statements: str, dbname: str = "postgres", *, timeout: float = 60.0) -> str:
        """Run ``statements`` with psql and return its unaligned output.

        Raises:
            SandboxError: a statement failed; the message carries psql's last line.
        """
        command: list[str | Path] = [
            tools.postgres_client() / "psql",
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            self.conninfo(dbname, password=None),
        ]
        env = {**os.environ, "PGPASSWORD": self.password}
        return run(command, what=f"psql on {dbname}", timeout=timeout, input=statements + "\n", env=env).stdout


@dataclass(slots=True)
class PostgresServer(OwnServer, PostgresEndpoint):
    """A Postgres server of our own; made by :meth:`launch` or :meth:`standby_of`."""

    directory: Path = Path()
    daemon: Daemon = field(kw_only=True)

    @classmethod
    def launch(
        cls,
        version: str = "18",
        *,
        directory: Path | None = None,
        authority: Authority | None = None,
        settings: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> PostgresServer:
        """Start a fresh server (about a second) and return when it answers.

        ``directory`` gets its data, log and certificates (default: a new one below /tmp), ``settings`` override
        postgresql.conf, ``port`` 0 takes a free one.

        Raises:
            PortTakenError: the given port is taken.
            SandboxError: it cannot be fetched or does not start.
        """
        template, password = tools.postgres_template(version)
        directory = server_directory(directory, f"postgres-{version}")
        authority = authority or Authority(directory / "pki", "Selvedge sandbox databases")
        data = directory / "data"
        shutil.copytree(template, data, symlinks=True)
        ca_path = _install_certificates(authority, directory, f"postgres-{version}")
        _write_configuration(data, directory, {**_SETTINGS, **(settings or {})})
        server = on_free_port(lambda chosen: cls._start_new(version, directory, chosen, password, ca_path), port)
        server._replace_password()
        return server

    @classmethod
    def standby_of(cls, primary: PostgresEndpoint, *, directory: Path | None = None) -> PostgresServer:
        """Start a streaming replica of ``primary`` (a server on this machine) and return when it answers reads.

        Raises:
            SandboxError: the base backup failed or the server does not start.
        """
        directory = server_directory(directory, f"postgres-{primary.version}-standby")
        if primary.ca_path is None:
            raise SandboxError("a standby needs a primary that the sandbox started")
        authority = Authority(primary.ca_path.parent, "")
        ca_path = _install_certificates(authority, directory, f"postgres-{primary.version}-standby")
        data = directory / "data"
        data.mkdir(mode=0o700)
        ids = unprivileged_ids()
        if ids:
            os.chown(data, *ids)
        source = primary.conninfo(password=None, sslrootcert=str(ca_path))
        command: list[str | Path] = [
            tools.postgres_client() / "pg_basebackup",
            "-D",
            data,
            "-d",
            source,
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
        ]
        env = {"PATH": os.environ["PATH"], "HOME": str(directory), "PGPASSWORD": primary.password}
        run(command, what="pg_basebackup", timeout=120, ids=ids, env=env, cwd="/")
        # The primary's own ssl paths came with its configuration; the standby has its own.
        _append(data / "postgresql.conf", _tls_settings(directory))
        standby = on_free_port(lambda port: cls._start_new(primary.version, directory, port, primary.password, ca_path))
        standby.daemon.wait_until(standby._streams)
        return standby

    @classmethod
    def _start_new(cls, version: str, directory: Path, port: int, password: str, ca_path: Path) -> PostgresServer:
        # Postgres calls SIGQUIT immediate shutdown: it ends its children and frees its shared memory, which after
        # SIGKILL would stay behind.
        command: list[str | Path] = [
            tools.postgres(version) / "bin" / "postgres",
            "-D",
            directory / "data",
            "-c",
            f"port={port}",
        ]
        daemon = Daemon(
            f"Postgres {version}",
            command,
            directory / "server.log",
            death_signal=signal.SIGQUIT,
            stop_signal=signal.SIGINT,
            ids=unprivileged_ids(),
            # Not ours: libpq in a standby would look for a certificate in root's home, and PG* variables have a say.
            env={"PATH": os.environ["PATH"], "HOME": str(directory)},
            cwd=Path("/"),
        )
        server = cls(version, port, password, ca_path, log_path=daemon.log_path, directory=directory, daemon=daemon)
        server.start()
        return server

    def start(self) -> None:
        """Start it (again) on the same port and wait until it accepts connections."""
        self.daemon.start_until(self._is_ready, _START_SECONDS)

    def _is_ready(self) -> bool:
        """Postgres writes its state into line 8 of postmaster.pid, so no connection has to be tried."""
        try:
            lines = (self.directory / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() in {"ready", "standby"}

    def _streams(self) -> bool:
        with self.connect() as connection:
            row = connection.execute("SELECT status FROM pg_stat_wal_receiver").fetchone()
        return row is not None and row[0] == "streaming"

    def _replace_password(self) -> None:
        """Every server has a password of its own; the template's is known to all of them."""
        password = secrets.token_hex(24)
        with self.connect() as connection:
            verifier = connection.pgconn.encrypt_password(password.encode(), b"postgres", b"scram-sha-256").decode()
            statement = sql.SQL("ALTER ROLE postgres PASSWORD {}").format(sql.Literal(verifier))
            connection.execute(statement)
        self.password = password


def _install_certificates(authority: Authority, directory: Path, name: str) -> Path:
    """Put server certificate, key and CA into ``directory``, readable by the user that Postgres runs as."""
    issued = authority.server(name)
    for source, target in ((issued.certificate_path, "server.crt"), (issued.key_path, "server.key")):
        shutil.copyfile(source, directory / target)
    (directory / "server.key").chmod(0o600)
    ids = unprivileged_ids()
    if ids:
        os.chown(directory / "server.key", *ids)
        _give(directory / "data", ids)
    shutil.copyfile(authority.certificate_path, directory / "ca.crt")
    return authority.certificate_path


def _give(tree: Path, ids: tuple[int, int]) -> None:
    if tree.exists():
        os.chown(tree, *ids)
        for path in tree.rglob("*"):
            os.chown(path, *ids, follow_symlinks=False)


def _write_configuration(data: Path, directory: Path, settings: Mapping[str, str]) -> None:
    _append(data / "postgresql.conf", {**_tls_settings(directory), **settings})
    (data / "pg_hba.conf").write_text(_HBA, encoding="utf-8")


def _tls_settings(directory: Path) -> dict[str, str]:
    files = {"ssl_cert_file": "server.crt", "ssl_key_file": "server.key", "ssl_ca_file": "ca.crt"}
    return {setting: str(directory / name) for setting, name in files.items()}


def _append(path: Path, settings: Mapping[str, str]) -> None:
    lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
    with path.open("a", encoding="utf-8") as file:
        file.writelines(lines)
