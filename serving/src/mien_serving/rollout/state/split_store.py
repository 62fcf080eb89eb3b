"""``split.json``: the share of each model's calls that its canary answers."""

from __future__ import annotations

from pathlib import Path

from mien_client.contract import CANARY_LABEL, STABLE_LABEL
from mien_client.reading import read_file
from mien_client.split import SPLIT_FILE, Split
from mien_client.writing import write_atomically

from mien_serving.rollout.errors import RolloutError
from mien_serving.rollout.state.configmap import ConfigMap
from mien_serving.rollout.state.desired import Plan


class SplitStore:
    """``split.json`` beside ``models.config``, or the key of that name in the same ConfigMap.

    Only rollouts write it, and they hold the lock. A damaged file counts as an empty one, so that it can stop neither a
    rollback nor an abort; the next change repairs it.

    Args:
        config: Where ``models.config`` is.

    Attributes:
        path: Where the split is.
        damage: A sentence without its full stop on what was wrong with what was read; empty if nothing was.
    """

    def __init__(self, config: Path | ConfigMap) -> None:
        self._config = config
        self.path = f"{SPLIT_FILE} in {config}" if isinstance(config, ConfigMap) else config.with_name(SPLIT_FILE)
        self.damage = ""
        self._text: str | None = None

    def read(self) -> Split:
        """Return the split.

        Raises:
            RolloutError: The cluster does not answer or refuses the request.
        """
        self.damage = ""
        try:
            if isinstance(self._config, ConfigMap):
                self._text = self._config.find(SPLIT_FILE)
                return Split() if self._text is None else Split.parse(self._text)
            return Split.parse(read_file(self._config.with_name(SPLIT_FILE)))
        except FileNotFoundError:
            return Split()
        except OSError as error:
            problem = f"it cannot be read: {error.strerror or error}"
        except ValueError as error:
            problem = str(error)
        self.damage = f"{self.path} is damaged and counts as empty: {problem}"
        return Split()

    def write(self, split: Split) -> None:
        """Replace what was read, in one step.

        Raises:
            RolloutError: The split cannot be written, and is unchanged; or somebody else has changed it in the cluster.
        """
        if isinstance(self._config, ConfigMap):
            self._config.replace(split.text(), self._text, SPLIT_FILE)
            return
        try:
            content = split.text().encode()
            write_atomically(self._config.with_name(SPLIT_FILE), lambda stream: stream.write(content), self._config)
        except OSError as error:
            reason = error.strerror or error
            raise RolloutError(f"{self.path} cannot be written, and is unchanged: {reason}") from None


class EndOfShare:
    """The end of a canary's share of the calls, as a part of a plan.

    A share is for one canary. It ends when that loses its label, and before another version gets it. It ends before
    labels move, so that a bad canary loses its callers first. If the canary becomes stable, it ends afterwards, so that
    its callers stay on the version.

    Args:
        config: Where ``models.config`` is.
        plan: The plan.

    Attributes:
        percent: The percentage that ends; 0 if none does.
        notes: Sentences that people should read before they agree.
    """

    def __init__(self, config: Path | ConfigMap, plan: Plan) -> None:
        self._store = SplitStore(config)
        self._model = plan.model
        self._split = self._store.read()
        before, after = (side.labels.get(CANARY_LABEL) for side in (plan.before, plan.after))
        self._promoted = before is not None and plan.after.labels.get(STABLE_LABEL) == before
        ends = after is None or after != before
        self.percent = self._split.percent(plan.model) if ends else 0
        # Whoever follows a damaged file may still have a share from before.
        self._due = ends and bool(self.percent or self._store.damage)
        self.notes: tuple[str, ...] = (f"{self._store.damage}.",) if self._store.damage else ()
        if self.percent:
            self.notes += (f"The canary's share of the calls, {self.percent:g}%, ends.",)

    def end(self, *, promoted: bool) -> None:
        """End the share, if it is to end at this moment.

        Args:
            promoted: Whether labels have moved.

        Raises:
            RolloutError: The split cannot be written.
        """
        if self._due and promoted == self._promoted:
            self._store.write(self._split.with_percent(self._model, 0))
