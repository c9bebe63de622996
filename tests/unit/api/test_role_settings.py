"""What the API says of a role's settings is what is sent: they hold in every database of the server."""

from __future__ import annotations

from selvedge.api.crd import schema_of
from selvedge.api.databaseschema import DatabaseSchemaSpec


def test_a_roles_settings_are_described_as_the_servers_and_not_as_one_databases():
    role = schema_of(DatabaseSchemaSpec)["properties"]["postgres"]["properties"]["roles"]["items"]["properties"]
    assert role["settings"]["description"].startswith("ALTER ROLE … SET")
    assert "IN DATABASE" not in role["settings"]["description"]
