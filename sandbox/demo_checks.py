"""What the demo's steps have in common: the deployment, a check with a sentence, a login for a moment."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from psycopg import sql

from sandbox.errors import SandboxError
from sandbox.wallet import POSTGRES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from sandbox.narrator import Narrator
    from sandbox.wallet import Wallet

DATABASE, MONGO_DATABASE = "fashion_wallet", "fashion-wallet-main"


class Checks:
    """Some steps of the demo, on one deployment."""

    def __init__(self, wallet: Wallet, narrator: Narrator) -> None:
        self.wallet = wallet
        self.narrator = narrator
        self.sandbox = wallet.sandbox
        self.postgres = self.sandbox.postgres[POSTGRES]

    def check(self, holds: bool, text: str, otherwise: str = "") -> None:
        """Say what holds; raise SandboxError, with ``otherwise`` as the reason, if it does not."""
        if not holds:
            raise SandboxError(f"this does not hold: {text}" + (f" ({otherwise})" if otherwise else ""))
        self.narrator.good(text)

    @contextmanager
    def login(self, role: str) -> Iterator[psycopg.Connection[Any]]:
        """A session of a login that exists for a moment and is a member of ``role``, as an application's would be."""
        name, password = f"demo_{secrets.token_hex(4)}", secrets.token_hex(16)
        login = sql.Identifier(name)
        create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}")
        with self.postgres.connect() as admin:
            admin.execute(create.format(login, sql.Literal(password), sql.Identifier(role)))
            try:
                with self.postgres.connect(DATABASE, user=name, password=password) as connection:
                    yield connection
            finally:
                admin.execute(sql.SQL("DROP ROLE {}").format(login))

    @staticmethod
    def one(connection: psycopg.Connection[Any], query: str) -> Any:
        """The first column of the first row."""
        row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]
