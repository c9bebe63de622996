"""The files of a migration source that is a container image: a Job reads them, and its log brings them here.

The operator never talks to a registry, and the pod never to a database: it has no token, no Secret of a database and
nothing of the image is started in it. What was read stays with the process until the run is over; a restarted operator
reads it from the log again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.kube.errors import KubeError, KubeExists
from selvedge.kube.resources import JOBS, PODS
from selvedge.migrate.image_reader import LARGEST_PACKED
from selvedge.migrate.packing import packed_in
from selvedge.reconcile.context import Context
from selvedge.reconcile.imagejob import READER, Stage, job_name, judge, manifest
from selvedge.reconcile.sources import files_in_archive
from selvedge.reconcile.store import Object, key_of

POLL_SECONDS = 1.0
"""How soon the Job is looked at again; it takes a few seconds when the image is there."""
SLOW_SECONDS = 10.0
"""And if it waits for something that does not pass by itself."""

_KEPT = 16
_LOG_LIMIT = 2 * LARGEST_PACKED


class ReadingError(TransientError):
    """The Job is on its way; ``pause`` is how many seconds later it is worth a look."""

    def __init__(self, message: str, pause: float = POLL_SECONDS) -> None:
        super().__init__(Reason.WAITING_FOR_SOURCE, message)
        self.pause = pause


async def read_image(context: Context, run: Object, image: Mapping[str, Any]) -> dict[str, str]:
    """The migration files in an image, by name.

    Raises ReadingError while the Job works or waits, InvalidError where the image has no such files, or others.
    """
    namespace, name = key_of(run)[0], job_name(run, image)
    known = context.images.get((str(run["metadata"]["uid"]), name))
    if known is not None:
        return known
    try:
        return await _read(context, run, image, namespace, name)
    except KubeError as error:
        if error.code != 403:
            raise
        step = "where migrations are read out of images, set migrationImages.enabled in the chart's values"
        raise ReadingError(f"{error.message}; {step}", SLOW_SECONDS) from None


async def _read(context: Context, run: Object, image: Mapping[str, Any], namespace: str, name: str) -> dict[str, str]:
    job = await context.kube.get(JOBS, namespace, name)
    if job is None:
        await _create(context, run, image)
        raise ReadingError(f"job {name} was made to read image {image['reference']}")
    if not _is_of(job, run):
        raise InvalidError(
            Reason.CONFLICT, f"job {namespace}/{name} is somebody else's: delete it, and make another MigrationRun"
        )
    pods = [pod async for pod in context.kube.list(PODS, namespace, f"batch.kubernetes.io/job-name={name}")]
    state = judge(job, pods, image)
    if state.stage is Stage.WAITING:
        raise ReadingError(state.message, SLOW_SECONDS if state.alarming else POLL_SECONDS)
    if state.stage is Stage.BROKEN:
        raise InvalidError(Reason.INVALID_MIGRATION, state.message)
    if state.stage is Stage.DONE:
        text = await context.kube.log(namespace, state.pod, READER, limit=_LOG_LIMIT)
        body = packed_in(text) if text is not None else None
        if body is not None:
            files = files_in_archive(body)
            while len(context.images) >= _KEPT:  # the oldest, of runs that were deleted; others read their log again
                context.images.pop(next(iter(context.images)))
            context.images[str(run["metadata"]["uid"]), name] = files
            return files
    # deleted and made anew with the next pass
    context.may_write()
    await context.kube.delete(JOBS, namespace, name)
    why = state.message or f"the log of pod {state.pod} is not whole any more"
    raise ReadingError(f"{why}; the image is read again", SLOW_SECONDS)


async def forget_image(context: Context, run: Object, image: Mapping[str, Any]) -> None:
    """The run is over: its Job goes. One that cannot be deleted now goes a day after its end by itself."""
    namespace, name = key_of(run)[0], job_name(run, image)
    context.images.pop((str(run["metadata"]["uid"]), name), None)
    job = await context.kube.get(JOBS, namespace, name)
    if job is not None and _is_of(job, run):
        context.may_write()
        await context.kube.delete(JOBS, namespace, name)


def _is_of(job: Object, run: Object) -> bool:
    owners = job["metadata"].get("ownerReferences") or ()
    return any(owner.get("uid") == run["metadata"]["uid"] for owner in owners)


async def _create(context: Context, run: Object, image: Mapping[str, Any]) -> None:
    if not context.settings.image:
        raise ReadingError(
            "the operator does not know its own image, by which it reads others: set SELVEDGE_IMAGE, as the chart does",
            SLOW_SECONDS,
        )
    context.may_write()
    try:
        await context.kube.create(JOBS, manifest(run, image, context.settings.image))
    except KubeExists:
        return  # a pass before this one made it and did not hear so
