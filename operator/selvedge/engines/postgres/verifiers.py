"""How a verifier of a password reaches the server: in a parameter, and in no text of a query.

Neither ``pg_stat_activity`` nor a log shows it then. The statement that sets it is made on the server, inside of one
whose text says nothing; ``pg_stat_statements`` sees it with ``track = all`` alone, and that is switched off for the
transaction where the operator's login may: as a superuser, or with ``GRANT SET ON PARAMETER``.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from selvedge.engines.postgres.errors import is_transient, statement_error
from selvedge.engines.postgres.session import Session

#: Statements of the transaction stand in no log and no statistics, whatever the server's settings say, as far as the
#: login may set them.
_QUIET = sql.SQL("""
SELECT pg_catalog.set_config(q.name, q.value, true) FROM (VALUES
  ('log_statement', 'none'), ('log_min_duration_statement', '-1'), ('log_min_duration_sample', '-1'),
  ('log_transaction_sample_rate', '0'), ('log_duration', 'off'), ('log_min_error_statement', 'panic'),
  ('log_parameter_max_length', '0'), ('pg_stat_statements.track', 'none'), ('auto_explain.log_min_duration', '-1')
 ) q(name, value) WHERE pg_catalog.has_parameter_privilege(q.name, 'SET')
""")

_SET_VERIFIER = (
    b"SELECT pg_catalog.set_config('selvedge.login', %s, true), pg_catalog.set_config('selvedge.verifier', %s, true)"
)

_ALTER = sql.SQL("""
DO $selvedge$
BEGIN
  EXECUTE pg_catalog.format('ALTER ROLE %I PASSWORD %L', pg_catalog.current_setting('selvedge.login'),
                            pg_catalog.current_setting('selvedge.verifier'));
EXCEPTION WHEN OTHERS THEN
  -- raised anew: the server would write the statement that failed into its log
  RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = SQLERRM;
END
$selvedge$
""")

_CLEAR = sql.SQL("SELECT pg_catalog.set_config('selvedge.verifier', '', true)")


async def set_verifier(
    session: Session,
    login: str,
    verifier: str,
    *,
    before: tuple[sql.Composable, ...] = (),
    after: tuple[sql.Composable, ...] = (),
) -> None:
    """Set the password of a login to what the verifier was made of, in a transaction.

    ``before`` and ``after`` go in the messages that are sent anyway. Raises our errors; psycopg's for what is
    ``before`` and for what may be tried again.
    """
    await session.run("apply", *before, _QUIET)
    await session.send("apply", _SET_VERIFIER, [login, verifier])
    try:
        await session.run("apply", _ALTER, _CLEAR, *after)
    except psycopg.Error as error:
        if is_transient(error):
            raise
        raise statement_error(error, f"ALTER ROLE … PASSWORD for login {login}") from None
