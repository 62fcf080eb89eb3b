"""What can go wrong, each told in one sentence that says what to do."""


class ConfigError(ValueError):
    """A recipe that cannot be used; the message says which and why."""


class RunError(ValueError):
    """A run folder that cannot be used; the message says why."""


class ExportError(RuntimeError):
    """A version that was not published; nothing of it is left in the repository."""
