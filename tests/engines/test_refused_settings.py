"""The settings that the API refuses by name are those that the server calls a superuser's."""

from __future__ import annotations

from selvedge.api.settings import IDENTITY_SETTINGS, SUPERUSER_SETTINGS


def contexts(postgres) -> dict[str, str]:
    with postgres.connect() as connection:
        return dict(connection.execute("SELECT name, context FROM pg_settings WHERE strpos(name, '.') = 0").fetchall())


def test_every_superusers_setting_is_refused(postgres):
    found = {name for name, context in contexts(postgres).items() if context == "superuser"}
    assert found - set(SUPERUSER_SETTINGS) == set()


def test_no_setting_that_everyone_may_change_is_refused(postgres):
    changeable = {name for name, context in contexts(postgres).items() if context == "user"}
    assert changeable & set(SUPERUSER_SETTINGS) == set()


def test_settings_that_change_who_a_session_is_are_everyones_and_refused_all_the_same(postgres):
    # pg_settings does not list them, and a role that has them set becomes someone else at login
    with postgres.connect() as connection:
        for name in IDENTITY_SETTINGS:
            assert connection.execute("SELECT current_setting(%s)", [name]).fetchone() is not None
