"""The files of a migration source that is a container image: a Job reads them, and its log brings them here.

The operator never talks to a registry, and the pod never to a database: it has no token, no Secret of a database and
nothing of the image is started in it. What was read stays with the process until the run is over, while there is room;
a restarted operator reads it from the log again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from selvedge.core.errors import InvalidError, TransientError
from selvedge.core.reasons import Reason
from selvedge.core.words import count
from selvedge.kube.errors import KubeError, KubeExists, KubeForbidden
from selvedge.kube.resources import JOBS, PODS
from selvedge.migrate.image_reader import LARGEST, LARGEST_PACKED
from selvedge.migrate.packing import packed_in
from selvedge.reconcile.context import Context
from selvedge.reconcile.imagejob import READER, Stage, attempt_of, job_name, judge, manifest, pause_left
from selvedge.reconcile.sources import files_in_archive
from selvedge.reconcile.store import Object, key_of

POLL_SECONDS = 1.0
"""How soon the Job is looked at again; it takes a few seconds when the image is there."""
SLOW_SECONDS = 10.0
"""And if it waits for something that does not pass by itself."""

#: Bytes of memory for the files of all images together. A source may have 8 MiB, most have a few kB.
_KEPT_BYTES = 4 * LARGEST
_LOG_LIMIT = 2 * LARGEST_PACKED
#: What a 403 says beside rights that are missing, and what is to be done then.
_REFUSALS = (
    ("exceeded quota", "raise the ResourceQuota of the namespace, or delete what uses it up"),
    ("is being terminated", "the namespace is being deleted, and the run with it"),
    ("violates PodSecurity", "the pod needs no more than the level restricted: see the labels of the namespace"),
    ("denied the request", "let the admission webhook pass the Job, or read the migrations from ConfigMaps"),
)


class ReadingError(TransientError):
    """The Job is on its way; ``pause`` is how many seconds later it is worth a look."""

    def __init__(self, message: str, pause: float = POLL_SECONDS) -> None:
        super().__init__(Reason.WAITING_FOR_SOURCE, message)
        self.pause = pause


async def read_image(context: Context, run: Object, image: Mapping[str, Any]) -> dict[str, str]:
    """The migration files in an image, by name.

    Raises ReadingError while the Job works or waits, InvalidError where the image has no such files, TransientError
    where the API server refuses what it takes, or others.
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
        raise refused(error) from None


def refused(error: KubeError) -> TransientError:
    """A 403 with the next step of its cause: a right that is missing, a quota, a policy."""
    if isinstance(error, KubeForbidden):
        step = "where migrations are read out of images, set migrationImages.enabled in the chart's values"
        return TransientError(Reason.KUBERNETES_FORBIDDEN, f"{error.message}; {step}")
    step = next((step for words, step in _REFUSALS if words in error.message), "see what the API server says")
    return TransientError(Reason.WAITING_FOR_SOURCE, f"{error.message}: {step}")


async def _read(context: Context, run: Object, image: Mapping[str, Any], namespace: str, name: str) -> dict[str, str]:
    job = await context.kube.get(JOBS, namespace, name)
    if job is None:
        await _create(context, run, image)
        raise ReadingError(f"job {name} was made to read image {image['reference']}")
    if not _is_of(job, run):
        raise InvalidError(
            Reason.CONFLICT, f"job {namespace}/{name} is somebody else's: delete it, and make another MigrationRun"
        )
    # not by the Job's name: pods of one before it, of the same name, may still be there
    selector = f"batch.kubernetes.io/controller-uid={job['metadata']['uid']}"
    state = judge(job, [pod async for pod in context.kube.list(PODS, namespace, selector)], image)
    if state.stage is Stage.WAITING:
        raise ReadingError(state.message, SLOW_SECONDS if state.alarming else POLL_SECONDS)
    if state.stage is Stage.BROKEN:
        raise InvalidError(Reason.INVALID_MIGRATION, state.message)
    if state.stage is Stage.DONE:
        text = await context.kube.log(namespace, state.pod, READER, limit=_LOG_LIMIT)
        files = await asyncio.to_thread(_files_in, text or "")
        if files is not None:
            keep(context.images, (str(run["metadata"]["uid"]), name), files)
            return files
    why, attempt = state.message or f"the log of pod {state.pod} is not whole any more", attempt_of(job)
    # the Job stays until then: somebody may want to look at it
    left = pause_left(job, context.now())
    if left > 0:
        raise ReadingError(f"{why}; the image is read again at nextRetryTime, after {count(attempt, 'attempt')}", left)
    context.may_write()
    # with the Job goes its number, and the next one may not come at once
    context.failures["image", str(run["metadata"]["uid"]), name] = attempt
    await context.kube.delete(JOBS, namespace, name)
    await _create(context, run, image)
    raise ReadingError(f"{why}; the image is read again, by attempt {attempt + 1}")


def _files_in(log: str) -> dict[str, str] | None:
    body = packed_in(log)
    return None if body is None else files_in_archive(body)


def keep(
    images: dict[tuple[str, str], dict[str, str]],
    key: tuple[str, str],
    files: dict[str, str],
    limit: int = _KEPT_BYTES,
) -> None:
    """Add the files of an image; the oldest, as of runs that were deleted, make room: others read their log again."""
    images[key] = files
    while len(images) > 1 and sum(_size(known) for known in images.values()) > limit:
        images.pop(next(iter(images)))


def _size(files: Mapping[str, str]) -> int:
    return sum(sys.getsizeof(name) + sys.getsizeof(text) for name, text in files.items())


async def forget_image(context: Context, run: Object, image: Mapping[str, Any]) -> None:
    """The run is over: its Job goes. One that cannot be deleted now goes a day after its end by itself."""
    namespace, name = key_of(run)[0], job_name(run, image)
    context.images.pop((str(run["metadata"]["uid"]), name), None)
    context.failures.pop(("image", str(run["metadata"]["uid"]), name), None)
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
    before = context.failures.get(("image", str(run["metadata"]["uid"]), job_name(run, image)), 0)
    try:
        await context.kube.create(JOBS, manifest(run, image, context.settings.image, before + 1))
    except KubeExists:
        return  # a pass before this one made it and did not hear so
