from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings

import pytest
import structlog

from selvedge.config import Settings
from selvedge.core.redact import Redactor
from selvedge.telemetry import logs

MARKED = "marked-Pa'ss\"wörd/@1"


@pytest.fixture(autouse=True)
def _restore():
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    quiet = {name: logging.getLogger(name).level for name in logs._QUIET}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, was in quiet.items():
        logging.getLogger(name).setLevel(was)
    structlog.configure(**before)
    logging.captureWarnings(capture=False)


@pytest.fixture
def redactor():
    redactor = Redactor()
    redactor.add(MARKED)
    return redactor


def configured(redactor, **options):
    stream = io.StringIO()
    logs.configure(Settings(**options), redactor, stream)
    return stream


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_what_was_bound(redactor):
    stream = configured(redactor)
    log = structlog.stdlib.get_logger("selvedge.reconcile")
    with logs.bind(kind="DatabaseSchema", namespace="shop", name="fashion-wallet", generation=3, reconcile="a1"):
        log.info("reconciled", changes=2)
    log.info("after")
    first, second = lines(stream)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "level": "info",
        "event": "reconciled",
        "logger": "selvedge.reconcile",
        "kind": "DatabaseSchema",
        "namespace": "shop",
        "name": "fashion-wallet",
        "generation": 3,
        "reconcile": "a1",
        "changes": 2,
    }
    assert "kind" not in second


async def test_what_is_bound_in_one_task_is_not_seen_in_another(redactor):
    stream = configured(redactor)
    log = structlog.stdlib.get_logger("t")

    async def work(name):
        with logs.bind(name=name):
            await asyncio.sleep(0)  # the others' turn
            log.info("x", said=name)

    await asyncio.gather(*(work(f"n{number}") for number in range(10)))
    assert all(line["name"] == line["said"] for line in lines(stream))


def test_the_standard_library_goes_the_same_way(redactor):
    stream = configured(redactor)
    with logs.bind(name="fashion-wallet"):
        logging.getLogger("kopf.objects").warning("patched %s", "x", extra={"k8s_ref": {"uid": "1"}})
    logging.getLogger("kopf").debug("not at this level")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"]) == ("patched x", "kopf.objects", "warning")
    assert line["name"] == "fashion-wallet"
    assert "k8s_ref" not in line


def test_a_librarys_line_about_a_missing_right_is_one_sentence(redactor):
    """Kopf logs the whole request and answer of a watch that was refused."""
    stream = configured(redactor)
    user = "system:serviceaccount:ops:selvedge"
    said = f'secrets is forbidden: User "{user}" cannot watch resource "secrets" in API group "" at the cluster scope'
    logging.getLogger("kopf").error("Watching failed: (%r, {'kind': 'Status', 'code': 403})", said)
    (line,) = lines(stream)
    assert line["event"].startswith(f"{user} may not watch secrets in all namespaces: ")
    assert "Status" not in line["event"]


def test_python_warnings_are_logged(redactor):
    stream = configured(redactor)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", stacklevel=1)
    assert "old" in lines(stream)[0]["event"]


class Holder:
    def __repr__(self):
        return f"Holder({MARKED})"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_known_secret_never_reaches_a_line(redactor, log_format):
    stream = configured(redactor, log_format=log_format, log_level="debug")
    log = structlog.stdlib.get_logger("selvedge")
    plain = logging.getLogger("psycopg")
    log.info("connect with " + MARKED)  # noqa: G003 - as a careless caller would
    log.info("positional %s", MARKED)
    log.info("value", value=MARKED, nested={"a": [MARKED, {MARKED: (MARKED,)}]}, obj=Holder(), raw=MARKED.encode())
    plain.error("args %s %r %s", MARKED, MARKED, {"pw": MARKED})
    with logs.bind(name=MARKED):
        log.warning("bound")
    try:
        try:
            raise ValueError(f"inner {MARKED}")
        except ValueError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError:
        log.exception("failed")
        plain.exception("failed")
    log.info("stack", stack_info=True)
    text = stream.getvalue()
    assert text.count("ValueError: inner ***") == 2
    for form in (MARKED, json.dumps(MARKED)[1:-1], repr(MARKED)[1:-1], str(MARKED.encode())[2:-1], "marked-Pa"):
        assert form not in text


def test_a_password_that_nobody_made_known_is_caught_by_its_shape_and_by_its_key():
    stream = configured(Redactor())
    log = structlog.stdlib.get_logger("x")
    log.info("ALTER ROLE a PASSWORD 'hunter2'", url="postgresql://a:hunter2@h/d", command={"pwd": "hunter2"})
    log.info("x", password="hunter2")
    assert "hunter2" not in stream.getvalue()


def test_console_lines_have_no_colour_unless_on_a_terminal(redactor):
    stream = configured(redactor, log_format="console")
    structlog.stdlib.get_logger("x").info("hello", a=1)
    assert "hello" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


def test_configuring_twice_does_not_double_the_lines(redactor):
    configured(redactor)
    stream = configured(redactor)
    logging.getLogger("x").warning("once")
    assert len(lines(stream)) == 1
