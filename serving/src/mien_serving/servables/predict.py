"""Predict: requests that carry tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
from mien_client.protos import TensorProto

from mien_serving.core.status import Code, StatusError, invalid_argument
from mien_serving.servables.servable import NO_DEADLINE, Servable, SignatureTensors
from mien_serving.servables.tensor import TooLargeToFillError, array_from_proto, check_empty

DEFAULT_SIGNATURE: Final = "serving_default"
"""The signature of requests that name none."""

PREDICT: Final = "tensorflow/serving/predict"
CLASSIFY: Final = "tensorflow/serving/classify"
REGRESS: Final = "tensorflow/serving/regress"
"""The method names of signatures."""


def predict(
    servable: Servable,
    signature_name: str,
    inputs: Mapping[str, np.ndarray | TensorProto],
    output_filter: Sequence[str] = (),
    deadline: float = NO_DEADLINE,
) -> dict[str, np.ndarray]:
    """Run one signature.

    Args:
        servable: The model version to run.
        signature_name: Which of its signatures; empty for the default one.
        inputs: Values by input name, from JSON (arrays) or from the wire.
        output_filter: Names of the outputs wanted; empty for all.
        deadline: When the result is no longer needed, in seconds on the monotonic clock.

    Returns:
        Values by output name.

    Raises:
        StatusError: The request does not fit the signature, or the graph failed.
    """
    signature_name = signature_name or DEFAULT_SIGNATURE
    tensors = servable.signature_tensors.get(signature_name)
    if tensors is None:
        raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{signature_name}" not found.')
    if not servable.accepts_method(signature_name, PREDICT, CLASSIFY, REGRESS):
        raise StatusError(
            Code.INTERNAL,
            f"Expected prediction signature method_name to be one of {{{PREDICT}, {CLASSIFY}, {REGRESS}}}. Was: "
            f"{servable.signatures[signature_name].method_name}",
        )
    _check_input_names(tensors, inputs)
    _check_examples(servable, inputs)
    feeds = {tensor: _input(tensors, name, inputs) for name, tensor in tensors.inputs.items()}
    names = _output_names(tensors, output_filter)
    fetched = servable.run(feeds, [tensors.outputs[name] for name in names], deadline)
    return dict(zip(names, fetched, strict=True))


def _check_input_names(tensors: SignatureTensors, sent: Collection[str]) -> None:
    expected = tensors.inputs
    if len(sent) > len(expected) or (len(sent) < len(expected) and not tensors.defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(expected)} len({_braces(sent)}) != "
            f"len({_braces(expected)}). Sent extra: {_braces(set(sent) - set(expected))}. "
            f"Missing but required: {_braces(set(expected) - set(sent))}."
        )


def _check_examples(servable: Servable, inputs: Mapping[str, np.ndarray | TensorProto]) -> None:
    """Refuse more examples than the batching allows before any value is read."""
    limit = servable.max_examples
    if limit is None:
        return
    for value in inputs.values():
        if isinstance(value, np.ndarray) or not value.tensor_shape.dim:
            continue
        size = value.tensor_shape.dim[0].size
        if size > limit:
            raise invalid_argument(f"Task size {size} is larger than maximum input batch size {limit}")


def _input(tensors: SignatureTensors, name: str, inputs: Mapping[str, np.ndarray | TensorProto]) -> np.ndarray:
    value = inputs.get(name)
    if value is None:
        if name not in tensors.defaults:
            raise invalid_argument(
                f"Signature input alias: {name}(feed name: {tensors.inputs[name]}) not found in request and no default "
                f"value provided. Inputs expected to be in the request {_braces(inputs)}, or default input alias set: "
                f"{','.join(sorted(tensors.defaults))}"
            )
        value = tensors.defaults[name]
    try:
        if not isinstance(value, np.ndarray):
            return array_from_proto(value, tensors.shapes[name])
        if not value.size:
            check_empty(value.shape, value.itemsize, tensors.shapes[name])
        return value
    except TooLargeToFillError as error:
        raise invalid_argument(f"tensor parsing error: {name}: {error}") from error
    except ValueError as error:
        raise invalid_argument(f"tensor parsing error: {name}") from error


def _output_names(tensors: SignatureTensors, output_filter: Sequence[str]) -> Sequence[str]:
    for position, name in enumerate(output_filter):
        if name not in tensors.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{_braces(tensors.outputs)}."
            )
        if name in output_filter[:position]:
            raise invalid_argument(f"duplicate output tensor alias: {name}")
    return output_filter or list(tensors.outputs)


def _braces(names: Collection[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
