"""Settings of extensions that a superuser makes are refused: set on a role they would hold at its login."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from selvedge.api.postgres_data import SettingName
from selvedge.api.settings import settings_are_allowed


@pytest.mark.parametrize("name", ["pgaudit.log", "PGAUDIT.log", "pg_stat_statements.track", "auto_explain.log_analyze"])
def test_a_superusers_setting_of_an_extension_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"belongs to an extension and is a superuser's: remove it"):
        settings_are_allowed({name: "none"})


@pytest.mark.parametrize("name", ["app.tenant", "pg_trgm.similarity_threshold", "statement_timeout", "pgaudit"])
def test_a_setting_of_ones_own_or_of_context_user_is_allowed(name: str) -> None:
    assert settings_are_allowed({name: "1"}) == {name: "1"}


@pytest.mark.parametrize("name", ["app.ten\u200bant", "app.tenant\u00a0", "app\n.tenant"])
def test_the_name_of_a_setting_hides_nothing(name: str) -> None:
    adapter = TypeAdapter(SettingName)
    assert adapter.validate_python("app.tenant") == "app.tenant"
    with pytest.raises(ValidationError, match=r"holds a character that cannot be seen.*remove it"):
        adapter.validate_python(name)
