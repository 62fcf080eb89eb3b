"""Classify, Regress and MultiInference: what the recorded cases leave out, in TensorFlow Serving's words."""

import numpy as np
import pytest
from google.protobuf import text_format
from mien_client.protos import Input, MultiInferenceRequest, SignatureDef
from mien_serving.core.status import Code, StatusError
from mien_serving.servables.classify_regress import classify, multi_inference, regress
from mien_serving.servables.servable import NO_DEADLINE, Servable

TWO_EXAMPLES = Input(example_list={"examples": [{}, {}]})
ANY_CLASSES = np.array([[b"a", b"b"]] * 2, object)
ANY_SCORES = np.zeros([2, 2], np.float32)


class Model(Servable):
    """Answers signatures of these inputs and outputs, whose tensors have the names of these, with these values."""

    def __init__(self, inputs=("inputs",), **values):
        signature = SignatureDef()
        for name in inputs:
            signature.inputs[name].name = name
        for name in values:
            signature.outputs[name].name = name
        self.signatures = {"serving_default": signature}
        self.values = values
        self.fed = None

    def accepts_method(self, name, *methods):
        return True

    def run(self, feeds, fetches, deadline=NO_DEADLINE, api=""):
        self.feeds = feeds
        self.fed = next(iter(feeds.values()))
        return [self.values[name] for name in fetches]


def test_classes_and_scores_are_paired():
    result = classify(Model(classes=ANY_CLASSES, scores=np.array([[0.25, 0.75], [1, 0]], np.float32)), "", TWO_EXAMPLES)
    found = [[(one.label, one.score) for one in example.classes] for example in result.classifications]
    assert found == [[("a", 0.25), ("b", 0.75)], [("a", 1), ("b", 0)]]


def test_a_classifier_may_have_only_classes_or_only_scores():
    only_classes = classify(Model(classes=ANY_CLASSES), "", TWO_EXAMPLES).classifications[0].classes
    only_scores = classify(Model(scores=ANY_SCORES + 3), "", TWO_EXAMPLES).classifications[0].classes
    assert [(one.label, one.score) for one in only_classes] == [("a", 0), ("b", 0)]
    assert [(one.label, one.score) for one in only_scores] == [("", 3), ("", 3)]


@pytest.mark.parametrize("values", [[1, 2], [[1], [2]]])
def test_one_number_for_each_example_is_a_regression(values):
    result = regress(Model(outputs=np.float32(values)), "", TWO_EXAMPLES)
    assert [one.value for one in result.regressions] == [1, 2]


def test_the_features_of_a_context_come_before_those_of_each_example():
    context = text_format.Parse(
        "features { feature { key: 'c' value { int64_list { value: 1 } } } }", Input().example_list.examples.add()
    )
    own = text_format.Parse("features { feature { key: 'e' value { int64_list { value: 2 } } } }", type(context)())
    model = Model(outputs=np.array([0], np.float32))
    regress(model, "", Input(example_list_with_context={"context": context, "examples": [own]}))
    merged = type(context).FromString(model.fed[0])
    assert {name: list(feature.int64_list.value) for name, feature in merged.features.feature.items()} == {
        "c": [1],
        "e": [2],
    }


def test_a_context_that_becomes_gigabytes_once_each_example_has_a_copy_is_refused():
    context = {"features": {"feature": {"c": {"bytes_list": {"value": [bytes(1 << 20)]}}}}}
    model = Model(outputs=np.zeros(4, np.float32))
    examples = Input(example_list_with_context={"context": context, "examples": [{}] * 4})
    regress(model, "", examples)
    for _ in range(1000):
        examples.example_list_with_context.examples.add()
    for call in (regress, lambda *args: classify(Model(classes=ANY_CLASSES), *args[1:])):
        with pytest.raises(
            StatusError, match=r"Expected at most 16777216 bytes .* 1004 examples and 1048\d+ bytes of context"
        ):
            call(model, "", examples)


@pytest.mark.parametrize(
    ("call", "model", "code", "message"),
    [
        (classify, Model(("inputs", "more"), classes=ANY_CLASSES), "INVALID_ARGUMENT", "Expected one input Tensor."),
        (
            classify,
            Model(classes=ANY_CLASSES, scores=ANY_SCORES, more=ANY_SCORES),
            "INVALID_ARGUMENT",
            "Expected one or two output Tensors, found 3",
        ),
        (
            classify,
            Model(("x",), classes=ANY_CLASSES),
            "INVALID_ARGUMENT",
            "No classification inputs found in SignatureDef: ",
        ),
        (
            classify,
            Model(y=ANY_SCORES),
            "INVALID_ARGUMENT",
            'Expected classification signature outputs to contain at least one of "classes" or "scores"',
        ),
        (
            classify,
            Model(scores=np.zeros([2], np.float32)),
            "INVALID_ARGUMENT",
            "Expected Tensor shape: [batch_size num_classes] but got [2]",
        ),
        (
            classify,
            Model(classes=ANY_SCORES),
            "INVALID_ARGUMENT",
            "Expected classes Tensor of DT_STRING. Got: DT_FLOAT",
        ),
        (
            classify,
            Model(scores=np.zeros([2, 2])),
            "INVALID_ARGUMENT",
            "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
        ),
        (
            classify,
            Model(scores=np.zeros([3, 2], np.float32)),
            "INVALID_ARGUMENT",
            "Expected scores output batch size of 2. Got: 3",
        ),
        (
            classify,
            Model(classes=ANY_CLASSES, scores=np.zeros([2, 3], np.float32)),
            "INVALID_ARGUMENT",
            "Tensors class and score should match in dim_size(1). Got 2 vs. 3",
        ),
        (regress, Model(("inputs", "more"), outputs=ANY_SCORES), "INVALID_ARGUMENT", "Expected one input Tensor."),
        (regress, Model(outputs=ANY_SCORES, more=ANY_SCORES), "INVALID_ARGUMENT", "Expected one output Tensor."),
        (
            regress,
            Model(("x",), outputs=ANY_SCORES),
            "INVALID_ARGUMENT",
            "No regression inputs found in SignatureDef: ",
        ),
        (regress, Model(y=ANY_SCORES), "INVALID_ARGUMENT", "No regression outputs found in SignatureDef: "),
        (
            regress,
            Model(outputs=ANY_SCORES),
            "INVALID_ARGUMENT",
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]",
        ),
        (
            regress,
            Model(outputs=np.zeros(3, np.float32)),
            "INVALID_ARGUMENT",
            "Input batch size did not match output batch size: 2 vs. 3",
        ),
        (
            regress,
            Model(outputs=np.zeros(2)),
            "INVALID_ARGUMENT",
            "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE",
        ),
    ],
)
def test_an_unsuitable_signature_or_answer_is_an_error(call, model, code, message):
    with pytest.raises(StatusError) as error:
        call(model, "", TWO_EXAMPLES)
    assert error.value.code is Code[code]
    assert error.value.message.startswith(message)


@pytest.mark.parametrize("call", [classify, regress])
def test_an_unknown_signature_and_missing_examples_are_errors(call):
    with pytest.raises(StatusError, match="INVALID_ARGUMENT: No signature was found with the name: nope"):
        call(Model(), "nope", TWO_EXAMPLES)
    model = Model(classes=ANY_CLASSES) if call is classify else Model(outputs=ANY_SCORES)
    with pytest.raises(StatusError, match="INVALID_ARGUMENT: Input is empty"):
        call(model, "", Input())


def tasks(*described):
    request = MultiInferenceRequest(input=TWO_EXAMPLES)
    for name, signature, method in described:
        request.tasks.add(
            model_spec={"name": name, "signature_name": signature}, method_name=f"tensorflow/serving/{method}"
        )
    return request


def both_kinds():
    model = Model(classes=ANY_CLASSES, outputs=np.array([5, 6], np.float32))
    whole = model.signatures["serving_default"]
    model.signatures = {
        kind: SignatureDef(inputs=whole.inputs, outputs={output: whole.outputs[output]})
        for kind, output in (("classify", "classes"), ("regress", "outputs"))
    }
    return model


def test_several_tasks_are_answered_in_their_order_from_one_run():
    model = both_kinds()
    response = multi_inference(model, 7, tasks(("m", "regress", "regress"), ("m", "classify", "classify")))
    regression, classification = response.results
    assert [one.value for one in regression.regression_result.regressions] == [5, 6]
    assert [one.label for one in classification.classification_result.classifications[0].classes] == ["a", "b"]
    assert [(result.model_spec.signature_name, result.model_spec.version.value) for result in response.results] == [
        ("regress", 7),
        ("classify", 7),
    ]


@pytest.mark.parametrize(
    ("request_of", "code", "message"),
    [
        ([("", "regress", "regress")], "INVALID_ARGUMENT", "Found ModelSpec with an empty model name."),
        (
            [("m", "regress", "regress"), ("n", "classify", "classify")],
            "INVALID_ARGUMENT",
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            [("m", "regress", "regress"), ("m", "regress", "regress")],
            "INVALID_ARGUMENT",
            "Duplicate evaluation of signature: regress",
        ),
        ([("m", "nope", "regress")], "INVALID_ARGUMENT", "Requested signature not found in model graph: nope"),
        (
            [("m", "regress", "predict")],
            "UNIMPLEMENTED",
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
    ],
)
def test_incompatible_tasks_are_an_error(request_of, code, message):
    with pytest.raises(StatusError) as error:
        multi_inference(both_kinds(), 1, tasks(*request_of))
    assert (error.value.code, error.value.message) == (Code[code], message)


def test_signatures_with_different_input_tensors_are_each_fed_all_examples():
    model = both_kinds()
    model.signatures["classify"].inputs["inputs"].name = "another"
    response = multi_inference(model, 1, tasks(("m", "regress", "regress"), ("m", "classify", "classify")))
    assert len(response.results) == 2
    assert model.feeds.keys() == {"inputs", "another"}
    assert all(len(examples) == 2 for examples in model.feeds.values())
