"""Telling of drift before it is repaired: Ready is False from then on until the database was looked at again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog

from selvedge.core.errors import SelvedgeError
from selvedge.core.reasons import Reason
from selvedge.core.unit import ObjectRef
from selvedge.core.words import some
from selvedge.kube.resources import DATABASE_SCHEMAS
from selvedge.reconcile.context import Context
from selvedge.reconcile.outcome import Outcome
from selvedge.reconcile.store import Object

_log = structlog.stdlib.get_logger("selvedge.reconcile.drift")

#: How long the repair waits for the Kubernetes API; it is made in any case.
_PATIENCE_SECONDS = 5.0

Teller = Callable[[Mapping[str, frozenset[ObjectRef]]], Awaitable[None]]


def teller(context: Context, objects: Collection[Object]) -> Teller:
    """What an engine awaits before it repairs drift of these DatabaseSchemas.

    Never raises for what is wrong with the Kubernetes API: a repair does not wait for it.
    """
    by_uid = {str(obj["metadata"]["uid"]): obj for obj in objects}

    async def tell(drift: Mapping[str, frozenset[ObjectRef]]) -> None:
        told = {uid: refs for uid, refs in drift.items() if refs and uid in by_uid}
        for uid in told:
            # Should this pass fail, the next one still finds drift and no change of the declaration.
            context.drifted[uid] = int(by_uid[uid]["metadata"].get("generation", 0))
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await asyncio.gather(*(_tell(context, by_uid[uid], refs) for uid, refs in told.items()))
        except TimeoutError:
            _log.warning("drift is repaired before it stands in the status: the Kubernetes API does not answer")

    return tell


async def _tell(context: Context, obj: Object, refs: frozenset[ObjectRef]) -> None:
    message = f"changed by hand: {some(sorted(refs))}; being put back"
    # Without an event: the one that says that it was put back follows.
    outcome = Outcome(False, Reason.DRIFT_DETECTED, message, status={"drift": len(refs)})
    try:
        await context.write_status(DATABASE_SCHEMAS, obj, outcome)
    except SelvedgeError as error:
        _log.warning("drift is repaired before it stands in the status", error=error.message)
