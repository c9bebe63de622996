"""What the Kubernetes API refused, told apart where a caller has something different to do."""

from __future__ import annotations

from selvedge.core.errors import TransientError
from selvedge.core.reasons import Reason


class KubeError(TransientError):
    """A call failed; ``code`` is the HTTP status, 0 where no answer came."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(Reason.KUBERNETES_API_ERROR, message)
        self.code = code


class KubeConflict(KubeError):  # noqa: N818 - the API's own name for it
    """The object changed since it was read (409 Conflict): read it again."""


class KubeExists(KubeError):  # noqa: N818 - the API's own name for it
    """The object is there already (409 AlreadyExists)."""


class KubeForbidden(KubeError):  # noqa: N818 - the API's own name for it
    """The account lacks a right (403 by the authorizer): the message names verb, resource and namespace."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 403)
        self.reason = Reason.KUBERNETES_FORBIDDEN
