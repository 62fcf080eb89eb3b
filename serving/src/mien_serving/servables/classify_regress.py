"""Classify, Regress and MultiInference: requests that carry `Example` messages instead of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from google.protobuf import text_format
from mien_client.protos import (
    ClassificationResult,
    DataType,
    InferenceTask,
    Input,
    MultiInferenceRequest,
    MultiInferenceResponse,
    RegressionResult,
    SignatureDef,
)

from mien_serving.core.status import Code, StatusError, invalid_argument
from mien_serving.servables.predict import CLASSIFY, DEFAULT_SIGNATURE, REGRESS
from mien_serving.servables.servable import NO_DEADLINE, Servable
from mien_serving.servables.tensor import DATA_TYPES

_MAX_CONTEXTS: Final = 16 << 20
"""Limit on the bytes that all copies of a context, one for each example, take together."""

_KINDS: Final = {CLASSIFY: "classification", REGRESS: "regression"}

Outputs = Mapping[str, np.ndarray]
"""Values by tensor name."""


def classify(
    servable: Servable, signature_name: str, examples: Input, deadline: float = NO_DEADLINE
) -> ClassificationResult:
    """Run a classification signature: one list of labels with scores per example.

    Raises:
        StatusError: The signature is not for classification, there are no examples, or the graph failed.
    """
    signature = _signature(servable, signature_name, CLASSIFY, "No signature was found with the name")
    input_name, output_names = _classification_tensors(signature)
    batch = _serialized_examples(examples)
    fetched = servable.run({input_name: batch}, output_names, deadline, "Classify")
    return _classification_result(signature, len(batch), dict(zip(output_names, fetched, strict=True)))


def regress(
    servable: Servable, signature_name: str, examples: Input, deadline: float = NO_DEADLINE
) -> RegressionResult:
    """Run a regression signature: one number per example.

    Raises:
        StatusError: The signature is not for regression, there are no examples, or the graph failed.
    """
    signature = _signature(servable, signature_name, REGRESS, "No signature was found with the name")
    input_name, output_names = _regression_tensors(signature)
    batch = _serialized_examples(examples)
    fetched = servable.run({input_name: batch}, output_names, deadline, "Regress")
    return _regression_result(signature, len(batch), dict(zip(output_names, fetched, strict=True)))


def multi_inference(
    servable: Servable, version: int, request: MultiInferenceRequest, deadline: float = NO_DEADLINE
) -> MultiInferenceResponse:
    """Run several classification and regression signatures on the same examples, in one run of the graph.

    If signatures have different input tensors, as those of TensorFlow 2 have, each is fed all examples.

    Args:
        servable: The model.
        version: Its version, for the answer.
        request: A request whose tasks are all for this model.
        deadline: When the result is no longer needed, in seconds on the monotonic clock.

    Raises:
        StatusError: The tasks cannot be combined, one does not fit its signature, or the graph failed.
    """
    fetches: dict[str, None] = {}
    feeds: dict[str, None] = {}
    for number, task in enumerate(request.tasks):
        signature = _task_signature(servable, request, number)
        input_name, output_names = (
            _classification_tensors(signature) if task.method_name == CLASSIFY else _regression_tensors(signature)
        )
        feeds[input_name] = None
        fetches.update(dict.fromkeys(output_names))
    batch = _serialized_examples(request.input)
    values = servable.run(dict.fromkeys(feeds, batch), list(fetches), deadline, "MultiInference")
    fetched = dict(zip(fetches, values, strict=True))
    response = MultiInferenceResponse()
    for number, task in enumerate(request.tasks):
        signature = _task_signature(servable, request, number)
        result = response.results.add()
        result.model_spec.name = task.model_spec.name
        result.model_spec.version.value = version
        result.model_spec.signature_name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if task.method_name == CLASSIFY:
            result.classification_result.CopyFrom(_classification_result(signature, len(batch), fetched))
        else:
            result.regression_result.CopyFrom(_regression_result(signature, len(batch), fetched))
    return response


def _task_signature(servable: Servable, request: MultiInferenceRequest, number: int) -> SignatureDef:
    """Return the signature of one task, after checking the task against those before it."""
    task: InferenceTask = request.tasks[number]
    name = task.model_spec.signature_name or DEFAULT_SIGNATURE
    if not task.model_spec.name:
        raise invalid_argument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != request.tasks[0].model_spec.name:
        raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    if name in [before.model_spec.signature_name or DEFAULT_SIGNATURE for before in request.tasks[:number]]:
        raise invalid_argument(f"Duplicate evaluation of signature: {name}")
    if name in servable.signatures and task.method_name not in _KINDS:
        raise StatusError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
    return _signature(servable, name, task.method_name, "Requested signature not found in model graph")


def _signature(servable: Servable, name: str, method: str, complaint: str) -> SignatureDef:
    name = name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f"{complaint}: {name}")
    if not servable.accepts_method(name, method):
        raise invalid_argument(
            f"Expected {_KINDS[method]} signature method_name to be {method}. Was: {signature.method_name}"
        )
    return signature


def _serialized_examples(examples: Input) -> np.ndarray:
    """Return the examples as strings [N], each with the features of the context if there is one."""
    match examples.WhichOneof("kind"):
        case "example_list_with_context":
            # Two serialized messages, concatenated, are a message with the fields of both.
            context = examples.example_list_with_context.context.SerializeToString()
            count = len(examples.example_list_with_context.examples)
            if (copies := len(context) * count) > _MAX_CONTEXTS:
                raise invalid_argument(
                    f"Expected at most {_MAX_CONTEXTS} bytes for the copies of the context, one for each example; got "
                    f"{count} examples and {len(context)} bytes of context, which makes {copies}"
                )
            batch = [context + one.SerializeToString() for one in examples.example_list_with_context.examples]
        case _:
            batch = [one.SerializeToString() for one in examples.example_list.examples]
    if not batch:
        raise invalid_argument("Input is empty.")
    return np.array(batch, object)


def _classification_tensors(signature: SignatureDef) -> tuple[str, list[str]]:
    """Return the names of the tensor to feed and of those to fetch."""
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise _unfit("No classification inputs found in SignatureDef", signature)
    names = [signature.outputs[name].name for name in ("classes", "scores") if name in signature.outputs]
    if not names:
        raise _unfit(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". Signature was',
            signature,
        )
    return signature.inputs["inputs"].name, names


def _classification_result(signature: SignatureDef, size: int, fetched: Outputs) -> ClassificationResult:
    columns = {}
    for name, data_type in (("classes", "DT_STRING"), ("scores", "DT_FLOAT")):
        if name not in signature.outputs:
            continue
        values = fetched[signature.outputs[name].name]
        if values.ndim != 2:
            raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape_text(values)}")
        _require_type(values, data_type, f"{name} Tensor of", ". Got: ")
        if len(values) != size:
            raise invalid_argument(f"Expected {name} output batch size of {size}. Got: {len(values)}")
        columns[name] = values
    widths = [values.shape[1] for values in columns.values()]
    if len(set(widths)) > 1:
        raise invalid_argument(f"Tensors class and score should match in dim_size(1). Got {widths[0]} vs. {widths[1]}")
    result = ClassificationResult()
    for row in range(size):
        classes = result.classifications.add().classes
        for column in range(widths[0]):
            one = classes.add()
            if "classes" in columns:
                one.label = columns["classes"][row, column]
            if "scores" in columns:
                one.score = columns["scores"][row, column]
    return result


def _regression_tensors(signature: SignatureDef) -> tuple[str, list[str]]:
    """Return the names of the tensor to feed and of the one to fetch."""
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise _unfit("No regression inputs found in SignatureDef", signature)
    if "outputs" not in signature.outputs:
        raise _unfit("No regression outputs found in SignatureDef", signature)
    return signature.inputs["inputs"].name, [signature.outputs["outputs"].name]


def _regression_result(signature: SignatureDef, size: int, fetched: Outputs) -> RegressionResult:
    values = fetched[signature.outputs["outputs"].name]
    if values.ndim != 1 and values.shape[1:] != (1,):
        raise invalid_argument(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape_text(values)}"
        )
    if len(values) != size:
        raise invalid_argument(f"Input batch size did not match output batch size: {size} vs. {len(values)}")
    _require_type(values, "DT_FLOAT", "output Tensor of", ".  Got: ")
    result = RegressionResult()
    for value in values.reshape(-1).tolist():
        result.regressions.add(value=value)
    return result


def _require_type(values: np.ndarray, data_type: str, what: str, got: str) -> None:
    actual = DataType.Name(DATA_TYPES[values.dtype])
    if actual != data_type:
        raise invalid_argument(f"Expected {what} {data_type}{got}{actual}")


def _unfit(complaint: str, signature: SignatureDef) -> StatusError:
    return invalid_argument(f"{complaint}: {text_format.MessageToString(signature)}")


def _shape_text(values: np.ndarray) -> str:
    return f"[{','.join(map(str, values.shape))}]"
