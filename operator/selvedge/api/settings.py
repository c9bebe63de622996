"""Which configuration settings a declaration may set on a database or a role.

Only settings of context ``user`` and those with a prefix of one's own: one that needs a superuser, set on a role, takes
effect at its next login without further check (``session_replication_role`` switches audit triggers off). The server's
``pg_settings.context`` decides when a plan is made; the list here is what the API server can already refuse.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

_MAX_TEXT = 4096
_MAX_ENTRIES = 64


def _value(value: object) -> str | tuple[str, ...]:
    entries = tuple(value) if isinstance(value, list | tuple) else (value,)
    for entry in entries:
        if not isinstance(entry, str):
            raise ValueError("a setting is text, or a list of texts: put it in quotes")
        if len(entry) > _MAX_TEXT:
            raise ValueError(f"a setting has at most {_MAX_TEXT} characters: shorten it")
    if len(entries) > _MAX_ENTRIES:
        raise ValueError(f"a setting has at most {_MAX_ENTRIES} entries: shorten it")
    return value if isinstance(value, str) else entries


SettingValue = Annotated[str | tuple[str, ...], BeforeValidator(_value)]
"""Text, or a list of texts for a setting that is a list (``search_path``)."""

SUPERUSER_SETTINGS = (
    "allow_in_place_tablespaces",
    "allow_system_table_mods",
    "backtrace_functions",
    "commit_delay",
    "compute_query_id",
    "deadlock_timeout",
    "debug_discard_caches",
    "dynamic_library_path",
    "event_triggers",
    "extension_control_path",
    "ignore_checksum_failure",
    "ignore_invalid_pages",
    "jit_debugging_support",
    "jit_dump_bitcode",
    "jit_profiling_support",
    "jit_provider",
    "lc_messages",
    "lo_compat_privileges",
    "log_duration",
    "log_error_verbosity",
    "log_executor_stats",
    "log_lock_failures",
    "log_lock_waits",
    "log_min_duration_sample",
    "log_min_duration_statement",
    "log_min_error_statement",
    "log_min_messages",
    "log_parameter_max_length",
    "log_parser_stats",
    "log_planner_stats",
    "log_replication_commands",
    "log_statement",
    "log_statement_sample_rate",
    "log_statement_stats",
    "log_temp_files",
    "log_transaction_sample_rate",
    "max_stack_depth",
    "session_preload_libraries",
    "session_replication_role",
    "temp_file_limit",
    "track_activities",
    "track_cost_delay_timing",
    "track_counts",
    "track_functions",
    "track_io_timing",
    "track_wal_io_timing",
    "update_process_title",
    "wal_compression",
    "wal_consistency_checking",
    "wal_init_zero",
    "wal_recycle",
    "zero_damaged_pages",
)
"""Settings of context superuser in some version of Postgres from 15 on."""

IDENTITY_SETTINGS = ("role", "session_authorization")
"""Settings that change who a session is."""

SUPERUSER_EXTENSIONS = (
    "anon",
    "auto_explain",
    "cron",
    "passwordcheck",
    "pg_qualstats",
    "pg_stat_kcache",
    "pg_stat_statements",
    "pgaudit",
    "pgsodium",
    "plperl",
    "plpgsql_check",
    "plpython3",
    "pltcl",
    "pltclu",
    "sepgsql",
    "set_user",
    "supautils",
)
"""Extensions whose settings a superuser makes: set by the administrator on a role, they would hold at its login.

``pgaudit.log`` would switch an audit off. A setting of an extension that is not loaded passes as one of the user's own,
so the server cannot be asked.
"""

_REFUSED = (
    (SUPERUSER_SETTINGS, " is a superuser's and cannot be declared: remove it, or set it on the server"),
    (IDENTITY_SETTINGS, " changes who a session is and cannot be declared: remove it"),
)
_WHY = {name: f"setting {name}{why}" for names, why in _REFUSED for name in names}


def settings_are_allowed(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings when none of them is known to need a superuser; raises ValueError."""
    for name in settings:
        lowered = name.lower()
        why = _WHY.get(lowered)
        if why is not None:
            raise ValueError(why)
        extension, dot, _ = lowered.partition(".")
        if dot and extension in SUPERUSER_EXTENSIONS:
            raise ValueError(
                f"setting {name} belongs to an extension and is a superuser's: remove it, or set it on the server"
            )
    return settings


SETTINGS_MARK: dict[str, Any] = {"x-selvedge-settings": True}
"""Marks a map of settings for :mod:`selvedge.api.crd`."""


def settings_schema(max_properties: int) -> dict[str, Any]:
    """The structural schema of a map of settings with at most ``max_properties`` entries.

    Text or a list is a union, which a structural schema cannot express: the values are left open, and the refused
    settings are named so that a rule can see them.
    """
    return {
        "type": "object",
        "maxProperties": max_properties,
        "x-kubernetes-preserve-unknown-fields": True,
        "properties": {name: {"type": "string", "maxLength": 1024} for name in _WHY},
        "x-kubernetes-validations": [_validation(names, why) for names, why in _REFUSED],
    }


def _validation(names: tuple[str, ...], why: str) -> dict[str, str]:
    # the message names the first one; a list of all of them is beyond the API server's cost limit
    first = " : ".join([f"has(self.{name}) ? '{name}'" for name in names[:-1]] + [f"'{names[-1]}'"])
    return {
        "rule": " && ".join(f"!has(self.{name})" for name in names),
        "message": "a setting that cannot be declared: remove it",
        "messageExpression": f"""'setting ' + ({first}) + "{why}\"""",
    }
