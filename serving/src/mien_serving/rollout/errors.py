"""How verbs fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mien_client import MienError

from mien_serving.repository.errors import RepositoryError


class RolloutError(Exception):
    """A verb could not do what was asked.

    The text is one or more sentences, the last without its full stop: what happened, where, what is in force now, and
    what to do.
    """


class RolloutInterrupted(KeyboardInterrupt):
    """Ctrl-C stopped a verb that had begun to change something. The text says what is in force."""


@contextmanager
def only_rollout_errors() -> Iterator[None]:
    """Turn the errors of the layers below the verbs into `RolloutError`. Also usable as a decorator."""
    try:
        yield
    except (RepositoryError, MienError) as error:
        raise RolloutError(str(error)) from None
    except BrokenPipeError:  # Whoever reads the output has left.
        raise
    except OSError as error:  # Such as a name that is too long for the file system.
        where = error.filename2 or error.filename
        raise RolloutError(f"{f'{where}: ' if where else ''}{error.strerror or error}") from None
