from __future__ import annotations

import ast
import dataclasses
import inspect
from itertools import pairwise

import pytest

from selvedge import config
from selvedge.config import Settings
from selvedge.core.shards import Shard


def test_the_defaults():
    settings = Settings.from_environment({})
    assert settings.namespaces == ()
    assert (settings.lease_duration, settings.renew_deadline, settings.retry_period) == (15.0, 10.0, 2.0)
    assert (settings.http_port, settings.workers, settings.metadata_schema) == (8080, 20, "selvedge")


def test_each_process_has_its_own_identity():
    assert len({Settings().identity for _ in range(20)}) == 20


def test_every_setting_is_read():
    settings = Settings.from_environment(
        {
            "SELVEDGE_NAMESPACES": "shop, billing,shop",
            "SELVEDGE_WATCH_SECRETS": "False",
            "SELVEDGE_LEASE_NAME": "second",
            "SELVEDGE_LEASE_NAMESPACE": "ops",
            "SELVEDGE_SHARD": "2/3",
            "SELVEDGE_CLUSTER_UID": "7d0f",
            "SELVEDGE_IMAGE": "registry.example/selvedge:1",
            "SELVEDGE_IDENTITY": "me",
            "SELVEDGE_LEASE_DURATION": "30",
            "SELVEDGE_RENEW_DEADLINE": "20s",
            "SELVEDGE_RETRY_PERIOD": "500ms",
            "SELVEDGE_HTTP_HOST": "127.0.0.1",
            "SELVEDGE_HTTP_PORT": "0",
            "SELVEDGE_LOG_LEVEL": "DEBUG",
            "SELVEDGE_LOG_FORMAT": "console",
            "SELVEDGE_SWEEP_TICK": "0.25",
            "SELVEDGE_WORKERS": "4",
            "SELVEDGE_RECONCILE_TIMEOUT": "2m",
            "SELVEDGE_METADATA_SCHEMA": "ops_selvedge",
            "SELVEDGE_HISTORY_TABLE": "wallet_history",
            "PATH": "/bin",
        }
    )
    assert settings == Settings(
        namespaces=("shop", "billing"),
        watch_secrets=False,
        lease_name="second",
        lease_namespace="ops",
        shard=Shard(2, 3),
        cluster_uid="7d0f",
        image="registry.example/selvedge:1",
        identity="me",
        lease_duration=30,
        renew_deadline=20,
        retry_period=0.5,
        http_host="127.0.0.1",
        http_port=0,
        log_level="debug",
        log_format="console",
        sweep_tick=0.25,
        workers=4,
        reconcile_timeout=120,
        metadata_schema="ops_selvedge",
        history_table="wallet_history",
    )


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SELVEDGE_NAMESPACES", "Shop"),
        ("SELVEDGE_WATCH_SECRETS", "no"),
        ("SELVEDGE_LEASE_NAME", "a/b"),
        ("SELVEDGE_SHARD", "3/3"),
        ("SELVEDGE_LEASE_DURATION", "soon"),
        ("SELVEDGE_LEASE_DURATION", "-1"),
        ("SELVEDGE_SWEEP_TICK", "0"),
        ("SELVEDGE_HTTP_PORT", "65536"),
        ("SELVEDGE_WORKERS", "0"),
        ("SELVEDGE_LOG_LEVEL", "loud"),
        ("SELVEDGE_LOG_FORMAT", "xml"),
        ("SELVEDGE_METADATA_SCHEMA", "pg_selvedge"),
        ("SELVEDGE_METADATA_SCHEMA", 'a"; drop'),
        ("SELVEDGE_METADATA_SCHEMA", "admin"),
        ("SELVEDGE_HISTORY_TABLE", "claims"),
        ("SELVEDGE_HISTORY_TABLE", "History"),
        ("SELVEDGE_WORKER", "20"),
    ],
)
def test_an_error_names_the_variable(variable, text):
    with pytest.raises(ValueError, match=variable):
        Settings.from_environment({variable: text})


def test_lease_periods_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="SELVEDGE_RENEW_DEADLINE"):
        Settings.from_environment({"SELVEDGE_RENEW_DEADLINE": "15s"})


def test_what_kubernetes_and_the_sandbox_put_into_the_environment_is_no_setting():
    Settings.from_environment(
        {
            "SELVEDGE_SERVICE_HOST": "10.0.0.1",
            "SELVEDGE_SERVICE_PORT_METRICS": "8080",
            "SELVEDGE_PORT": "tcp://10.0.0.1:8080",
            "SELVEDGE_PORT_8080_TCP_ADDR": "10.0.0.1",
            "SELVEDGE_METRICS_SERVICE_PORT": "8080",
            "SELVEDGE_HTTP_PORT": "tcp://10.0.0.1:8080",
            "SELVEDGE_CACHE": "/var/cache/selvedge",
            "SELVEDGE_WORKERS": "",
        }
    )


def test_every_setting_has_a_variable_and_a_line_that_explains_it():
    source = ast.parse(inspect.getsource(config))
    body = next(node for node in source.body if isinstance(node, ast.ClassDef)).body
    documented = {
        field.target.id: text.value.value
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    for field in dataclasses.fields(Settings):
        assert documented[field.name].startswith(f"SELVEDGE_{field.name.upper()}: ")
    assert set(config._PARSERS) == {field.name for field in dataclasses.fields(Settings)}
