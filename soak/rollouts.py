"""An operator who never rests: versions go out and back with ``mien rollout``, whatever state the hosts are in."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections import Counter
from typing import Any, Final

from mien_client.contract import CANARY_LABEL, STABLE_LABEL

from soak.deployment import MODELS, VERSIONS, Deployment
from soak.labels import Labels

_PAUSE_S: Final = 1.0
_WAIT_S: Final = 60
_AGREE_S: Final = 120


class Rollouts(threading.Thread):
    """Swaps versions at a steady pace: canary, shift, promote, rollback, of one model and then of the other.

    Args:
        deployment: Where.
        swaps: How many times a version takes over from another.
        seconds: In how many seconds.
        seed: Of what chance decides.

    Attributes:
        labels: What the labels of each model named, by model.
        swapped: The moments at which ``stable`` moved.
        done: How often each verb succeeded.
        incomplete: How often each verb ended without a server that did not answer.
        refused: How often each verb was refused, so that nothing changed.
        reasons: What verbs that did not succeed said.
        error: Why it stopped before its time.
    """

    def __init__(self, deployment: Deployment, swaps: int, seconds: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.labels = {model: Labels() for model in MODELS}
        for labels in self.labels.values():
            labels.moved({STABLE_LABEL: VERSIONS[0]})
        self.swapped: list[float] = []
        self.done: Counter[str] = Counter()
        self.incomplete: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.reasons: list[str] = []
        self.error: Exception | None = None
        self._deployment = deployment
        self._swaps = swaps
        self._pace = seconds / swaps
        self._random = random.Random(seed)  # noqa: S311
        self._now = {model: {STABLE_LABEL: VERSIONS[0]} for model in MODELS}
        self._stopped = threading.Event()

    def run(self) -> None:
        """Swap versions until told to stop."""
        try:
            self._swap_all()
        except Exception as error:  # The main thread reports it.
            self.error = error

    def _swap_all(self) -> None:
        started, turn = time.monotonic(), 0
        while len(self.swapped) < self._swaps and not self._stopped.is_set():
            self._swap(MODELS[turn // 2 % len(MODELS)])
            turn += 1
            self._stopped.wait(started + len(self.swapped) * self._pace - time.monotonic())

    def stop(self) -> None:
        """Finish what is under way, and stop."""
        self._stopped.set()
        self.join()

    def _swap(self, model: str) -> None:
        """Bring a version out and promote it, or roll it back, whichever comes next."""
        now = self._now[model]
        stable = now[STABLE_LABEL]
        if CANARY_LABEL not in now and stable != VERSIONS[0]:
            self._run("rollback", model, after={STABLE_LABEL: VERSIONS[0]})
            return
        if CANARY_LABEL not in now:
            version = self._random.choice([one for one in VERSIONS if one != stable])
            if not self._run("canary", model, version, after={**now, CANARY_LABEL: version}):
                return
            now = self._now[model]
            self._run("shift", model, self._random.choice((10, 30, 50)), after=now)
        after = {STABLE_LABEL: now.get(CANARY_LABEL, stable)}
        self._run("promote", model, "--force", "--why=soak", after=after)

    def _run(self, verb: str, model: str, *arguments: object, after: dict[str, int]) -> bool:
        """Run a verb, wait until all servers agree, and note what the labels name; return whether it succeeded."""
        labels, before = self.labels[model], self._now[model]
        labels.moving(after)
        wait = () if verb == "shift" else (f"--wait={_WAIT_S}",)
        result = self._deployment.rollout(verb, model, *arguments, *wait)
        if result.returncode == 0:
            self.done[verb] += 1
        else:
            (self.incomplete if "Done, but not on" in result.stderr else self.refused)[verb] += 1
            self.reasons.append(f"{verb} {model}: {result.stderr.strip()}")
        self._now[model] = self._agreed(model)
        labels.moved(self._now[model])
        if self._now[model][STABLE_LABEL] != before[STABLE_LABEL]:
            self.swapped.append(time.monotonic())
        if result.returncode and not self._stopped.is_set():
            self._stopped.wait(_PAUSE_S)
        return result.returncode == 0

    def _agreed(self, model: str) -> dict[str, int]:
        """Wait until all servers serve what is desired; return what the labels name then."""
        give_up = math.inf
        while (result := self._deployment.rollout("status", "--json")).returncode:
            if give_up == math.inf and self._stopped.is_set():  # From now on, nothing is broken any more.
                give_up = time.monotonic() + _AGREE_S
            if time.monotonic() > give_up:
                raise RuntimeError(f"The servers do not agree after {_AGREE_S} s:\n{result.stdout}{result.stderr}")
            time.sleep(_PAUSE_S)
        return labels_of(json.loads(result.stdout), model)

    def journal_differs(self) -> list[str]:
        """Return how the journal differs from what was done: each verb that ended once must be there once."""
        lines = (self._deployment.site / "models.journal").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        written = Counter(entry["verb"] for entry in entries if entry["event"] == "done")
        expected = self.done + self.incomplete
        return [
            f"the journal has {written[verb]} times `{verb}`, which ended {expected[verb]} times"
            for verb in ("canary", "shift", "promote", "rollback")
            if written[verb] != expected[verb]
        ]


def labels_of(status: dict[str, Any], model: str) -> dict[str, int]:
    """Return what the labels of a model are to name, of the document that ``mien rollout status --json`` prints."""
    found: dict[str, int] = status["models"][model]["desired"]["labels"]
    return found
