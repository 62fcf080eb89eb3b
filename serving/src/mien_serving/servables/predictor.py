"""The predictor: the one object that answers predictions, whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Self

import numpy as np
from mien_client.protos import (
    ClassificationResult,
    Input,
    ModelSpec,
    MultiInferenceRequest,
    MultiInferenceResponse,
    RegressionResult,
    SignatureDef,
    TensorProto,
)

from mien_serving.core.servable_state import ServableId
from mien_serving.servables.classify_regress import classify, multi_inference, regress
from mien_serving.servables.predict import predict
from mien_serving.servables.servable import NO_DEADLINE, Servable

Handle = Callable[[ModelSpec], AbstractContextManager[tuple[ServableId, Servable]]]
"""Holds the version that a model spec asks for; raises `StatusError` if there is none."""


_NOT_SERVED: Final = ServableId("", 0)


class Predictor:
    """Answers predictions with the versions of a server, or with one version that is not served yet.

    gRPC, REST, warm-up and the checks of `mien rollout` all ask models through it. Every method holds the version that
    answers until it returns, and raises `StatusError`. Deadlines are in seconds on the monotonic clock.

    Args:
        handle: Holds the version that a request asks for, such as `ServerCore.handle`.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    @classmethod
    def of_version(cls, servable: Servable, servable_id: ServableId = _NOT_SERVED) -> Self:
        """Return a predictor that answers every request with one version, whichever the request asks for."""
        return cls(lambda _: nullcontext((servable_id, servable)))

    @contextmanager
    def pinned(self, spec: ModelSpec) -> Iterator[Predictor]:
        """Hold the version that a spec asks for, and answer every request in the block with it.

        Raises:
            StatusError: There is no such version.
        """
        with self._handle(spec) as (servable_id, servable):
            yield Predictor.of_version(servable, servable_id)

    def signatures(self, spec: ModelSpec) -> tuple[ServableId, Mapping[str, SignatureDef]]:
        """Return the version that a spec asks for, and its signatures by name."""
        with self._handle(spec) as (servable_id, servable):
            return servable_id, servable.signatures

    def input_types(self, spec: ModelSpec) -> Mapping[str, Mapping[str, int]]:
        """Return the ``DataType`` of each input of each signature, by the names of both."""
        with self._handle(spec) as (_, servable):
            return servable.input_types

    def predict(
        self,
        spec: ModelSpec,
        inputs: Mapping[str, np.ndarray | TensorProto],
        output_filter: Sequence[str] = (),
        deadline: float = NO_DEADLINE,
    ) -> tuple[ServableId, dict[str, np.ndarray]]:
        """Run any signature on tensors.

        Args:
            spec: The model, its version or label, and the signature; the default one if it is empty.
            inputs: Values by input name, from JSON (arrays) or from the wire.
            output_filter: Names of the outputs wanted; empty for all.
            deadline: When the result is no longer needed.

        Returns:
            The version that answered, and values by output name.
        """
        with self._handle(spec) as (servable_id, servable):
            return servable_id, predict(servable, spec.signature_name, inputs, output_filter, deadline)

    def classify(
        self, spec: ModelSpec, examples: Input, deadline: float = NO_DEADLINE
    ) -> tuple[ServableId, ClassificationResult]:
        """Run a classification signature; return the version that answered, and its answer."""
        with self._handle(spec) as (servable_id, servable):
            return servable_id, classify(servable, spec.signature_name, examples, deadline)

    def regress(
        self, spec: ModelSpec, examples: Input, deadline: float = NO_DEADLINE
    ) -> tuple[ServableId, RegressionResult]:
        """Run a regression signature; return the version that answered, and its answer."""
        with self._handle(spec) as (servable_id, servable):
            return servable_id, regress(servable, spec.signature_name, examples, deadline)

    def multi_inference(self, request: MultiInferenceRequest, deadline: float = NO_DEADLINE) -> MultiInferenceResponse:
        """Run several classification and regression signatures of one model on the same examples."""
        with self._handle(request.tasks[0].model_spec if request.tasks else ModelSpec()) as (servable_id, servable):
            return multi_inference(servable, servable_id.version, request, deadline)
