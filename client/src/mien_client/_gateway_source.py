"""The traffic split, as a gateway tells it."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, Final

from mien_client.reading import DOCUMENT_LIMIT, parse_json
from mien_client.security import Security
from mien_client.split import Split
from mien_client.transports.http import Connections, content, innermost

_ANSWER_SECONDS: Final = 1.0

_log = logging.getLogger("mien_client")


class GatewaySource:
    """The split that a gateway follows; a `Source`.

    Args:
        address: The gateway's address, ``http://`` or ``https://``.
        security: The certificates, and the headers that identify the client.

    Raises:
        ConfigurationError: The options do not fit the address.
    """

    seconds = 1.0  # The gateway follows its file for half a second, too.

    def __init__(self, address: str, security: Security) -> None:
        self._address = address
        self._connections = Connections(address, security, kept=1)
        self._split = Split()
        self._problem = ""

    def read(self) -> Split:
        """See `Source.read`. While the gateway does not answer, its last answer counts, and that is logged once."""
        problem = ""
        try:
            self._split = self._asked()
        except Exception as error:  # Those of requests, of urllib3 and of the system.
            problem = " ".join(str(innermost(error)).split())
        if problem and not self._problem:
            _log.warning("%s does not tell the traffic split: %s. Its last one stays in force", self._address, problem)
        elif self._problem and not problem:
            _log.info("%s tells the traffic split again", self._address)
        self._problem = problem
        return self._split

    def close(self) -> None:
        """See `Source.close`."""
        self._connections.close()

    def _asked(self) -> Split:
        response = self._connections.request("GET", "/v1/models", None, _ANSWER_SECONDS)
        text = content(response, DOCUMENT_LIMIT)
        if response.status_code != HTTPStatus.OK:
            raise ValueError(f"HTTP status {response.status_code} {response.reason}")
        if text is None:
            raise ValueError("the answer is too large")
        return _split_of(parse_json(text))


def _split_of(document: Any) -> Split:
    """Return the split in a gateway's list of models.

    Raises:
        ValueError: It is not such a list.
    """
    models = document.get("models") if isinstance(document, dict) else None
    if not isinstance(models, dict) or not all(isinstance(facts, dict) for facts in models.values()):
        raise ValueError("the answer is not a gateway's list of models")
    return Split({model: facts.get("canary_percent") or 0 for model, facts in models.items()})
