"""What the files of images cost in memory, and what a refusal of the API server is told as."""

from __future__ import annotations

import pytest

from selvedge.core.reasons import Reason
from selvedge.kube.errors import KubeError, KubeForbidden
from selvedge.reconcile.imagesource import keep, refused


def test_the_files_of_images_are_bounded_by_their_bytes_and_the_newest_stays() -> None:
    images: dict[tuple[str, str], dict[str, str]] = {}
    for number in range(100):
        keep(images, (f"u-{number}", "small"), {"1_a.sql": "x" * 100}, limit=1_000_000)
    assert len(images) == 100
    for number in range(10):
        keep(images, (f"u-{number}", "large"), {"1_a.sql": "x" * 400_000}, limit=1_000_000)
    assert list(images) == [("u-8", "large"), ("u-9", "large")]
    keep(images, ("u-10", "larger"), {"1_a.sql": "x" * 2_000_000}, limit=1_000_000)
    assert list(images) == [("u-10", "larger")], "a run that could keep nothing would read its log with each pass"


POST = 'POST /apis/batch/v1/namespaces/shop/jobs: 403 jobs.batch "a" is forbidden: '


@pytest.mark.parametrize(
    ("error", "reason", "step"),
    [
        (KubeForbidden("op may not create jobs.batch in namespace shop"), Reason.KUBERNETES_FORBIDDEN, "migrationIm"),
        (KubeError(f"{POST}exceeded quota: q, used: x", 403), Reason.WAITING_FOR_SOURCE, "raise the ResourceQuota"),
        (KubeError(f'{POST}violates PodSecurity "restricted:latest"', 403), Reason.WAITING_FOR_SOURCE, "the labels of"),
        (
            KubeError(f"{POST}unable to create new content in namespace shop because it is being terminated", 403),
            Reason.WAITING_FOR_SOURCE,
            "the namespace is being deleted",
        ),
        (
            KubeError(f'{POST}admission webhook "a.b.c" denied the request: no', 403),
            Reason.WAITING_FOR_SOURCE,
            "let the admission webhook pass",
        ),
        (KubeError(f"{POST}for another reason", 403), Reason.WAITING_FOR_SOURCE, "see what the API server says"),
    ],
    ids=["right", "quota", "pod security", "terminating", "webhook", "other"],
)
def test_each_refusal_has_its_own_next_step(error: KubeError, reason: Reason, step: str) -> None:
    told = refused(error)
    assert told.reason is reason
    assert told.message.startswith(error.message)
    assert step in told.message
    assert ("migrationImages" in told.message) is (reason is Reason.KUBERNETES_FORBIDDEN)
