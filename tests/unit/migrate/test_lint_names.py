"""Names, and the conventions that they keep."""

from __future__ import annotations

import pytest

from selvedge.api.naming import NamingConventions
from selvedge.core.errors import InvalidError
from selvedge.migrate.conventions import Conventions
from tests.unit.migrate.lint_support import own

NAMES = {
    "CREATE TABLE shop.order (id int)": "table order is not in the plural",
    'CREATE TABLE "Orders" (id int)': "table Orders is not in snake_case",
    'CREATE TABLE orders ("userId" int)': "column userId of orders is not in snake_case",
    "CREATE TABLE orders (paid boolean NOT NULL)": "boolean column paid of orders asks no question",
    "CREATE INDEX orders_paid ON shop.orders (paid_at)": "index orders_paid of table orders is named otherwise",
    "CREATE UNIQUE INDEX idx_orders_number ON orders (number)": "unique index idx_orders_number",
    "ALTER TABLE orders ADD CONSTRAINT positive CHECK (price > 0)": "check positive of table orders",
    "CREATE TABLE orders (id int, CONSTRAINT orders_pkey PRIMARY KEY (id))": "primary key orders_pkey",
    "ALTER TABLE orders ADD CONSTRAINT x FOREIGN KEY (user_id) REFERENCES users (id)": "foreign key x",
    "ALTER TABLE orders ADD CONSTRAINT u UNIQUE (number)": "unique u of table orders",
    "ALTER TABLE orders ADD buyer uuid REFERENCES shared.users (id)": "column buyer of orders refers to shared.users",
}


GOOD_NAMES = [
    """CREATE TABLE shop.orders (id int CONSTRAINT pk_orders PRIMARY KEY, user_id uuid REFERENCES shared.users (id),
    created_by uuid REFERENCES shared.users, is_paid boolean, category_id int REFERENCES categories,
    CONSTRAINT chk_orders_price CHECK (true), CONSTRAINT unq_orders_user_id_number UNIQUE (user_id, number),
    CONSTRAINT fk_orders_users_user_id FOREIGN KEY (user_id) REFERENCES shared.users (id))""",
    "CREATE INDEX idx_orders_price ON shop.orders (price)",
    "CREATE INDEX ON shop.orders (price)",
    "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS uidx_orders_number ON ONLY shop.orders (lower(number))",
    "CREATE TABLE orders_p0 PARTITION OF orders FOR VALUES FROM (1) TO (2)",
    "CREATE TABLE user_activity (id int)",
]


@pytest.mark.parametrize(("text", "what"), NAMES.items())
def test_names(text: str, what: str) -> None:
    (found,) = [one for one in own(text) if one.rule == "naming"]
    assert what in found.message
    assert (found.severity, bool(found.next_step)) == ("advice", True)


@pytest.mark.parametrize("text", GOOD_NAMES)
def test_names_that_keep_the_conventions(text: str) -> None:
    assert not [one for one in own(text) if one.rule == "naming"]


def test_conventions_are_configurable() -> None:
    wanted = Conventions.from_mapping({"index": "{table}_{columns}_idx", "pluralTables": False, "boolean_prefixes": []})
    text = "CREATE TABLE item (paid boolean); CREATE INDEX item_paid_idx ON item (paid)"
    assert not own(text, wanted)
    for given, why in (
        ({"indexes": "x"}, "'indexes' is not known"),
        ({"index": 1}, "index is a text"),
        ({"plural_tables": "yes"}, "plural_tables is true or false"),
        ({"boolean_prefixes": "is_"}, "boolean_prefixes is a list of texts"),
        ({"snake_case": True, "snakeCase": True}, "snake_case is there twice"),
        ({"index": "idx_{tabel}"}, "index has {tabel} in it, which stands for nothing"),
        ({"index": "idx_{table"}, "index has {table in it"),
        ({"foreign_key_column": "{column}_id"}, "foreign_key_column has {column} in it"),
    ):
        with pytest.raises(InvalidError, match=why):
            Conventions.from_mapping(given)


def test_the_resource_s_conventions_are_the_linter_s() -> None:
    assert Conventions.from_mapping(NamingConventions().model_dump()) == Conventions()
    given = NamingConventions.model_validate({"uniqueIndex": "", "foreignKeySuffixes": ["_from"]})
    wanted = Conventions.from_mapping(given.model_dump())
    assert (wanted.unique_index, wanted.foreign_key_suffixes, wanted.index) == ("", ("_from",), Conventions().index)
    with pytest.raises(ValueError, match="index"):
        NamingConventions.model_validate({"index": "idx_{tabel}"})
