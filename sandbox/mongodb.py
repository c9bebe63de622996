"""MongoDB servers: a replica set of one, with TLS and passwords."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit, urlunsplit

import pymongo
from pymongo.errors import PyMongoError

from sandbox import tools
from sandbox.pki import Authority
from sandbox.ports import LOOPBACK, on_free_port
from sandbox.process import Daemon
from sandbox.server import OwnServer, server_directory
from sandbox.waiting import wait_until

if TYPE_CHECKING:
    from pymongo import MongoClient

_REPLICA_SET = "rs0"
_START_SECONDS = 60.0


@dataclass(slots=True)
class MongoEndpoint:
    """Where a MongoDB server answers, and its administrator's login."""

    version: str
    port: int
    password: str = field(repr=False)
    ca_path: Path | None
    host: str = "localhost"
    username: str = "root"
    replica_set: str = _REPLICA_SET
    log_path: Path | None = None
    url: str = field(default="", repr=False)

    @property
    def ca(self) -> str:
        """The CA's certificate as PEM text; empty when the server has none of ours."""
        return self.ca_path.read_text(encoding="utf-8") if self.ca_path else ""

    def uri(self, database: str = "", *, username: str = "", password: str = "", **options: str) -> str:
        """A connection string, the administrator's unless ``username`` and ``password`` are given."""
        if self.url:
            return self._external_uri(database, username, password, options)
        user, secret = quote_plus(username or self.username), quote_plus(password or self.password)
        parameters = {"authSource": "admin", "replicaSet": self.replica_set}
        if self.ca_path:
            parameters |= {"tls": "true", "tlsCAFile": str(self.ca_path)}
        return f"mongodb://{user}:{secret}@{self.host}:{self.port}/{database}?{urlencode(parameters | options)}"

    def _external_uri(self, database: str, username: str, password: str, options: dict[str, str]) -> str:
        """The given URL with these parts in place of its own."""
        parts = urlsplit(self.url)
        login, _, hosts = parts.netloc.rpartition("@")
        if username:
            login = f"{quote_plus(username)}:{quote_plus(password)}"
        query = urlencode({**dict(parse_qsl(parts.query)), **options})
        return urlunsplit((parts.scheme, f"{login}@{hosts}", f"/{database}" if database else parts.path, query, ""))

    def client(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """A blocking client of the administrator; close it, or use it as a context manager."""
        return pymongo.MongoClient(self.uri(), serverSelectionTimeoutMS=10_000, **options)


@dataclass(slots=True)
class MongoServer(OwnServer, MongoEndpoint):
    """A MongoDB server of our own; made by :meth:`launch`."""

    directory: Path = Path()
    daemon: Daemon = field(kw_only=True)

    @classmethod
    def launch(
        cls,
        *,
        directory: Path | None = None,
        authority: Authority | None = None,
        tls_mode: str = "requireTLS",
        port: int = 0,
        host: str = "localhost",
        address: str = LOOPBACK,
    ) -> MongoServer:
        """Start a fresh replica set of one and return when it is writable.

        The ``tls_mode`` is one of the program's own: requireTLS, preferTLS, allowTLS or disabled. ``host`` is the
        member's name, by which clients are told to find it; ``address`` is where it listens (with commas, several).

        Raises:
            PortTakenError: the given port is taken.
            SandboxError: it cannot be fetched, lacks a system library, or does not start.
        """
        directory = server_directory(directory, "mongodb")
        authority = authority or Authority(directory / "pki", "Selvedge sandbox databases")
        (directory / "data").mkdir()
        key_file = directory / "keyfile"
        key_file.touch(mode=0o600)
        key_file.write_text(base64.b64encode(secrets.token_bytes(48)).decode(), encoding="ascii")
        certificate = authority.server("mongodb")
        tls = ["--tlsMode", tls_mode]
        if tls_mode != "disabled":
            tls += [
                "--tlsCertificateKeyFile",
                str(certificate.bundle_path),
                "--tlsCAFile",
                str(authority.certificate_path),
            ]
            tls += ["--tlsAllowConnectionsWithoutCertificates"]
        options = [*tls, "--bind_ip", address]
        ca_path = authority.certificate_path if tls_mode != "disabled" else None
        server = on_free_port(lambda chosen: cls._start_new(directory, chosen, ca_path, key_file, options, host), port)
        server._initiate()
        return server

    @classmethod
    def _start_new(
        cls, directory: Path, port: int, ca_path: Path | None, key_file: Path, options: list[str], host: str
    ) -> MongoServer:
        command: list[str | Path] = [
            tools.mongod(),
            "--dbpath",
            directory / "data",
            "--port",
            str(port),
        ]
        command += ["--nounixsocket", "--replSet", _REPLICA_SET, "--keyFile", key_file, "--oplogSize", "128", *options]
        command += ["--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"]
        # Nobody waits for this one-member set to elect another primary.
        command += ["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"]
        daemon = Daemon("MongoDB", command, directory / "server.log", cwd=directory)
        password = secrets.token_hex(24)
        server = cls("6.0", port, password, ca_path, host, log_path=daemon.log_path, directory=directory, daemon=daemon)
        daemon.start_until(server._answers, _START_SECONDS)
        return server

    def start(self) -> None:
        """Start it (again) on the same port and wait until it is writable."""
        self.daemon.start_until(self._answers, _START_SECONDS)
        with self._direct(authenticated=True) as client:
            self._wait_for_primary(client)

    def _answers(self) -> bool:
        if '"Waiting for connections"' not in self.daemon.log_since_start():
            return False
        try:
            with self._direct(authenticated=False) as client:
                client.admin.command("hello")
        except PyMongoError:
            return False
        return True

    def _initiate(self) -> None:
        """Make the replica set and the administrator, by the exception that MongoDB makes for localhost until then."""
        members = [{"_id": 0, "host": f"{self.host}:{self.port}"}]
        with self._direct(authenticated=False) as client:
            client.admin.command("replSetInitiate", {"_id": _REPLICA_SET, "members": members})
        # A new client: the old one keeps the answer it got before there was a set.
        with self._direct(authenticated=False) as client:
            self._wait_for_primary(client)
            client.admin.command("createUser", self.username, pwd=self.password, roles=["root"])

    def _wait_for_primary(self, client: MongoClient[dict[str, Any]]) -> None:
        what = f"MongoDB did not become primary in {_START_SECONDS:.0f} s: see {self.log_path}"
        wait_until(lambda: client.admin.command("hello").get("isWritablePrimary"), what, _START_SECONDS)

    def _direct(self, *, authenticated: bool) -> MongoClient[dict[str, Any]]:
        options: dict[str, Any] = {"directConnection": True, "serverSelectionTimeoutMS": 2_000}
        if self.ca_path:
            options |= {"tls": True, "tlsCAFile": str(self.ca_path)}
        if authenticated:
            options |= {"username": self.username, "password": self.password, "authSource": "admin"}
        # By way of loopback whatever its name is: the first user is made by the exception for localhost.
        return pymongo.MongoClient("localhost", self.port, **options)
