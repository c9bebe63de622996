"""Which configuration settings a declaration may set on a database or a role.

Only settings of context ``user`` and those with a prefix of one's own: one that needs a superuser, set on a role, takes
effect at its next login without further check (``session_replication_role`` switches audit triggers off). The server's
``pg_settings.context`` decides when a plan is made; the list here is what the API server can already refuse.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import StringConstraints

SettingText = Annotated[str, StringConstraints(max_length=4096)]
SettingValue = SettingText | tuple[SettingText, ...]

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
    "file_copy_method",
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


def settings_are_allowed(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings when none of them is known to need a superuser; raises ValueError."""
    for name in settings:
        lowered = name.lower()
        if lowered in _REFUSED:
            raise ValueError(refusal(lowered))
    return settings


def refusal(name: str) -> str:
    """What a person reads who set ``name``."""
    return _REFUSED[name]


_REFUSED = {
    **{
        name: f"setting {name} is a superuser's and cannot be declared: remove it, or set it in the server's configuration"
        for name in SUPERUSER_SETTINGS
    },
    **{
        name: f"setting {name} changes who a session is and cannot be declared: remove it" for name in IDENTITY_SETTINGS
    },
}

SETTINGS_SCHEMA: dict[str, Any] = {
    "x-kubernetes-preserve-unknown-fields": True,
    "x-selvedge-refused": _REFUSED,
}
