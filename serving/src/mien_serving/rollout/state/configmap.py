"""``models.config`` in a ConfigMap, read and written with the official Kubernetes client."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from mien_client.reading import parse_json

from mien_serving.rollout.errors import RolloutError

_FIELD_MANAGER: Final = "mien-rollout"
_APPLY: Final = "application/apply-patch+yaml"
_TIMEOUT_S: Final = (10, 30)
"""Seconds for connecting, and for an answer."""

T = TypeVar("T")


class ConfigMap:
    """A ConfigMap whose key ``models.config`` is the desired state.

    The cluster and the credentials are those that kubectl uses: the current context of ``KUBECONFIG`` or
    ``~/.kube/config``; in a pod that has neither, its service account.

    Args:
        place: ``NAMESPACE/NAME``.

    Raises:
        RolloutError: The client is not installed, or no cluster is configured. `read` and `replace` raise it if the
            cluster does not answer or refuses the request.
    """

    KEY: Final = "models.config"

    def __init__(self, place: str) -> None:
        self._namespace, _, self._name = place.partition("/")
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise RolloutError(f"This needs kubernetes: pip install 'mien-serving[kubernetes]' ({error})") from None
        configuration = client.Configuration()
        try:
            kubeconfig = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
            if (
                "KUBERNETES_SERVICE_HOST" in os.environ
                and "KUBECONFIG" not in os.environ
                and not Path(kubeconfig).exists()
            ):
                config.load_incluster_config(client_configuration=configuration)
            else:
                config.load_kube_config(kubeconfig, client_configuration=configuration)
        except Exception as error:  # A kubeconfig can be invalid in many ways, and its loader checks few of them.
            reason = " ".join(str(error).split())
            raise RolloutError(f"{self}: no cluster is configured: {reason}; set KUBECONFIG") from None
        self._host = configuration.host
        self._api: Any = client.CoreV1Api(client.ApiClient(configuration))

    def __str__(self) -> str:
        return f"ConfigMap {self._namespace}/{self._name}"

    def read(self) -> str:
        """Return the configuration."""
        text = self.find(self.KEY)
        if text is None:
            raise RolloutError(f"{self} has no key {self.KEY}; {self._how_to_create()}")
        return text

    def find(self, key: str) -> str | None:
        """Return the text of a key, or None if the ConfigMap lacks it."""
        return self._read(key)[0]

    def replace(self, text: str, instead_of: str | None, key: str = KEY) -> None:
        """Replace a text by another, in one step.

        Server-side apply changes this one key. The request names the resource version that was read, so that the
        cluster refuses to overwrite another change.

        Args:
            text: The new text.
            instead_of: The text that the caller has read before; None if the ConfigMap lacked the key.
            key: The key.

        Raises:
            RolloutError: The ConfigMap has neither of the two texts, or the cluster refused the request.
        """
        found, resource_version = self._read(key)
        if found == text:
            return
        changed = f"{self} was changed by somebody else meanwhile; their change is kept"
        if found != instead_of:
            raise RolloutError(changed)
        # Each key has an owner of its own: one that applies a key gives up, and thereby removes, its other keys.
        manager = _FIELD_MANAGER if key == self.KEY else f"{_FIELD_MANAGER}-{key}"
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self._name, "namespace": self._namespace, "resourceVersion": resource_version},
            "data": {key: text},
        }
        self._call(
            lambda: self._api.patch_namespaced_config_map(
                self._name,
                self._namespace,
                body,
                field_manager=manager,
                force=True,  # kubectl owns the key until the first change.
                _content_type=_APPLY,
                _request_timeout=_TIMEOUT_S,
            ),
            conflict=changed,
        )

    def _read(self, key: str) -> tuple[str | None, str]:
        """Return the text of a key, and the version of the ConfigMap."""

        def look() -> tuple[str | None, str]:
            found = self._api.read_namespaced_config_map(self._name, self._namespace, _request_timeout=_TIMEOUT_S)
            return (found.data or {}).get(key), str(found.metadata.resource_version)

        return self._call(look)

    def _call(self, call: Callable[[], T], conflict: str = "") -> T:
        """Call the cluster, and turn the client's errors into sentences."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return call()
        except ApiException as error:
            raise RolloutError(self._refusal(error, conflict)) from None
        except HTTPError as error:
            reason = " ".join(str(getattr(error, "reason", None) or error).split())
            raise RolloutError(f"{self}: the cluster at {self._host} cannot be reached: {reason}") from None
        except (ValueError, RecursionError, AttributeError):
            raise RolloutError(f"{self}: the answer of {self._host} is not a ConfigMap") from None

    def _refusal(self, error: Any, conflict: str) -> str:
        try:
            told = parse_json(error.body or "")["message"]
        except (ValueError, TypeError, KeyError):
            told = " ".join(str(error.reason).split())
        match error.status:
            case 404:
                return f"{self} does not exist at {self._host}; {self._how_to_create()}"
            case 401 | 403:
                return f"{self}: {self._host} refuses these credentials, which need the verbs get and patch: {told}"
            case 409 if conflict:
                return conflict
            case status:
                return f"{self}: {self._host} answers {status or 'nothing'}: {told}"

    def _how_to_create(self) -> str:
        return f"create it with `kubectl -n {self._namespace} create configmap {self._name} --from-file={self.KEY}`"
