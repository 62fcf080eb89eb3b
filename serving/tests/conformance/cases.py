"""The conformance cases: every one is asked of the models that make_models.py writes."""

import base64
import json
from typing import Any

CASES: list[dict[str, Any]] = []
TINY = "/v1/models/tiny"
SOLO = "/v1/models/solo"


def rest(name, path, body=None, method=None, **more):
    CASES.append(
        {
            "id": "rest:" + name,
            "kind": "rest",
            "method": method or ("POST" if body is not None else "GET"),
            "path": path,
            "body": body,
            **more,
        }
    )


def grpc(name, rpc, request, **more):
    CASES.append({"id": "grpc:" + name, "kind": "grpc", "rpc": rpc, "request": request, **more})


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


# --- REST: predict -------------------------------------------------------------------------------------------------
rest("row-list", f"{TINY}:predict", '{"instances": [[1, 2], [3.5, -4]]}')
rest("row-dict", f"{TINY}:predict", '{"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}')
rest("column-list", f"{TINY}:predict", '{"inputs": [[1, 2]]}')
rest("column-dict", f"{TINY}:predict", '{"inputs": {"x": [[1, 2], [5, 6]]}}')
rest("named-signature", f"{TINY}:predict", '{"signature_name": "serving_default", "instances": [[0, 0]]}')
rest("version", f"{TINY}/versions/2:predict", '{"instances": [[1, 2]]}')
rest("label-stable", f"{TINY}/labels/stable:predict", '{"instances": [[1, 2]]}')
rest("label-canary", f"{TINY}/labels/canary:predict", '{"instances": [[1, 2]]}')
rest("latest-of-two", f"{TINY}:predict", '{"instances": [[0, 0]]}')
rest(
    "two-outputs-row",
    f"{TINY}:predict",
    '{"signature_name": "two", "instances": [{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}]}',
)
rest("two-outputs-column", f"{TINY}:predict", '{"signature_name": "two", "inputs": {"a": [[1, 2]], "b": [3]}}')
rest("two-inputs-as-list", f"{TINY}:predict", '{"signature_name": "two", "instances": [[1, 2]]}')
rest("bytes-row", f"{TINY}:predict", json.dumps({"signature_name": "raw", "instances": [b64(b"\x00\xff"), b64(b"")]}))
rest(
    "bytes-row-dict",
    f"{TINY}:predict",
    json.dumps({"signature_name": "raw", "instances": [{"image_bytes": b64(b"hi")}]}),
)
rest(
    "bytes-column", f"{TINY}:predict", json.dumps({"signature_name": "raw", "inputs": {"image_bytes": [b64(b"\x80")]}})
)
rest("bytes-plain-string", f"{TINY}:predict", '{"signature_name": "raw", "instances": ["abc"]}')
rest("bytes-bad-b64", f"{TINY}:predict", '{"signature_name": "raw", "instances": [{"b64": "***"}]}')
rest("bytes-b64-and-more", f"{TINY}:predict", '{"signature_name": "raw", "instances": [{"b64": "YQ==", "c": 1}]}')
rest("strings", f"{TINY}:predict", '{"signature_name": "words", "instances": ["abc", "h\\u00e9"]}')
rest("uint8", f"{TINY}:predict", '{"signature_name": "mean", "instances": [[[0, 255], [10, 20]]]}')
rest("uint8-too-large", f"{TINY}:predict", '{"signature_name": "mean", "instances": [[[0, 256], [10, 20]]]}')
rest("uint8-negative", f"{TINY}:predict", '{"signature_name": "mean", "instances": [[[0, -1], [10, 20]]]}')
rest("uint8-fraction", f"{TINY}:predict", '{"signature_name": "mean", "instances": [[[0, 1.5], [10, 20]]]}')
rest("kinds", f"{TINY}:predict", '{"signature_name": "kinds", "instances": [{"flag": true, "i": 7, "d": 1}]}')
rest(
    "kinds-int-as-float",
    f"{TINY}:predict",
    '{"signature_name": "kinds", "instances": [{"flag": true, "i": 7.0, "d": 1}]}',
)
rest("kinds-bool-as-int", f"{TINY}:predict", '{"signature_name": "kinds", "instances": [{"flag": 1, "i": 7, "d": 1}]}')
rest("scalar-column", f"{TINY}:predict", '{"signature_name": "scalar", "inputs": 3}')
rest("scalar-row", f"{TINY}:predict", '{"signature_name": "scalar", "instances": [3]}')
rest("op-error", f"{TINY}:predict", '{"signature_name": "checked", "instances": [4, -1]}', loose=True)
rest("op-fine", f"{TINY}:predict", '{"signature_name": "checked", "instances": [4, 9]}')
rest("wrong-inner-size", f"{TINY}:predict", '{"instances": [[1, 2, 3]]}', loose=True)
rest("wrong-rank", f"{TINY}:predict", '{"instances": [1, 2]}', loose=True)
rest("ragged", f"{TINY}:predict", '{"instances": [[1, 2], [3]]}')
rest("ragged-deep", f"{TINY}:predict", '{"signature_name": "mean", "instances": [[[1, 2], [3]]]}')
rest("mixed-depth", f"{TINY}:predict", '{"instances": [[1, 2], 3]}')
rest("string-for-float", f"{TINY}:predict", '{"instances": [["a", "b"]]}')
rest("null", f"{TINY}:predict", '{"instances": [[null, 1]]}')
rest("bool-for-float", f"{TINY}:predict", '{"instances": [[true, 1]]}')
rest("unknown-input", f"{TINY}:predict", '{"instances": [{"z": [1, 2]}]}')
rest("extra-input", f"{TINY}:predict", '{"instances": [{"x": [1, 2], "z": 1}]}')
rest("missing-input", f"{TINY}:predict", '{"signature_name": "two", "instances": [{"a": [1, 2]}]}')
rest("missing-input-column", f"{TINY}:predict", '{"signature_name": "two", "inputs": {"a": [[1, 2]]}}')
rest(
    "rows-of-different-keys",
    f"{TINY}:predict",
    '{"signature_name": "two", "instances": [{"a": [1, 2], "b": 3}, {"a": [4, 5]}]}',
)
rest("unknown-signature", f"{TINY}:predict", '{"signature_name": "nope", "instances": [[1, 2]]}')
rest("signature-not-string", f"{TINY}:predict", '{"signature_name": 1, "instances": [[1, 2]]}')
rest("empty-instances", f"{TINY}:predict", '{"instances": []}')
rest("empty-body", f"{TINY}:predict", "", method="POST")
rest("not-an-object", f"{TINY}:predict", "[]")
rest("no-keys", f"{TINY}:predict", "{}")
rest("both-keys", f"{TINY}:predict", '{"inputs": [[1, 2]], "instances": [[1, 2]]}')
rest("instances-not-list", f"{TINY}:predict", '{"instances": 1}')
rest("cut-short", f"{TINY}:predict", '{"instances": [[1, 2]', loose=True)
rest("trailing-comma", f"{TINY}:predict", '{"instances": [[1, 2],]}', loose=True)
rest("single-quotes", f"{TINY}:predict", "{'instances': [[1, 2]]}", loose=True)
rest("not-utf8-text", f"{TINY}:predict", "\x00\x01", loose=True)
rest("nan-inf", f"{TINY}:predict", '{"instances": [[NaN, Infinity], [-Infinity, 0]]}')
rest("overflow-to-inf", f"{TINY}:predict", '{"instances": [[1e50, 0]]}')
rest("one-value", f"{SOLO}:predict", '{"instances": [5]}')
rest("many-values", f"{SOLO}:predict", '{"instances": [1, 2, 3, 4, 5, 6, 7, 8]}')
rest(
    "classify", f"{TINY}:classify", '{"signature_name": "classify", "examples": [{"x": [1.0, 2.0]}, {"x": [0.5, 0.5]}]}'
)
rest("regress", f"{TINY}:regress", '{"signature_name": "regress", "examples": [{"x": 4.0}, {"x": 8.5}]}')
rest("regress-int-for-float", f"{TINY}:regress", '{"signature_name": "regress", "examples": [{"x": 4}]}', loose=True)
rest("regress-default-feature", f"{TINY}:regress", '{"signature_name": "regress", "examples": [{}]}')
rest("regress-context", f"{TINY}:regress", '{"signature_name": "regress", "context": {"x": 2.0}, "examples": [{}]}')
rest("classify-without-examples", f"{TINY}:classify", '{"signature_name": "classify"}', loose=True)
rest("classify-on-predict", f"{TINY}:classify", '{"examples": [{"x": [1, 2]}]}', loose=True)
# --- REST: addressing ----------------------------------------------------------------------------------------------
rest("unknown-model", "/v1/models/nope:predict", '{"instances": [1]}')
rest("unknown-version", f"{TINY}/versions/9:predict", '{"instances": [[1, 2]]}')
rest("unknown-label", f"{TINY}/labels/nope:predict", '{"instances": [[1, 2]]}')
rest("version-not-number", f"{TINY}/versions/abc:predict", '{"instances": [[1, 2]]}')
rest("unknown-verb", f"{TINY}:explain", "{}")
rest("get-predict", f"{TINY}:predict")
rest("put", f"{TINY}:predict", "{}", method="PUT")
rest("delete", TINY, method="DELETE")
rest("post-status", TINY, "{}")
rest("no-model", "/v1/models")
rest("trailing-slash", f"{TINY}/")
rest("outside", "/v2/health/ready")
# --- REST: status and metadata -------------------------------------------------------------------------------------
rest("status", TINY)
rest("status-version", f"{TINY}/versions/1")
rest("status-unknown-version", f"{TINY}/versions/9")
rest("status-label", f"{TINY}/labels/stable")
rest("status-unknown-model", "/v1/models/nope")
rest("metadata-solo", f"{SOLO}/metadata", loose=True)
rest("metadata-unknown-model", "/v1/models/nope/metadata")
rest("metadata-unknown-label", f"{TINY}/labels/nope/metadata")
# --- gRPC ----------------------------------------------------------------------------------------------------------
X12 = (
    "inputs { key: 'x' value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } dim { size: 2 } } "
    "float_val: 1 float_val: 2 } }"
)
grpc("predict", "Predict", f"model_spec {{ name: 'tiny' }} {X12}")
grpc(
    "predict-content",
    "Predict",
    "model_spec { name: 'tiny' } inputs { key: 'x' value { dtype: DT_FLOAT "
    "tensor_shape { dim { size: 1 } dim { size: 2 } } tensor_content: '\\000\\000\\200?\\000\\000\\000@' } }",
)
grpc("predict-version", "Predict", f"model_spec {{ name: 'tiny' version {{ value: 1 }} }} {X12}")
grpc("predict-label", "Predict", f"model_spec {{ name: 'tiny' version_label: 'stable' }} {X12}")
grpc("predict-unknown-label", "Predict", f"model_spec {{ name: 'tiny' version_label: 'nope' }} {X12}")
grpc("predict-unknown-version", "Predict", f"model_spec {{ name: 'tiny' version {{ value: 9 }} }} {X12}")
grpc("predict-unknown-model", "Predict", f"model_spec {{ name: 'nope' }} {X12}")
grpc("predict-no-model", "Predict", X12)
grpc("predict-unknown-signature", "Predict", f"model_spec {{ name: 'tiny' signature_name: 'nope' }} {X12}")
grpc(
    "predict-filter",
    "Predict",
    "model_spec { name: 'tiny' signature_name: 'two' } output_filter: 'b_plus' "
    "inputs { key: 'a' value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } dim { size: 2 } } float_val: 1 } } "
    "inputs { key: 'b' value { dtype: DT_INT64 tensor_shape { dim { size: 1 } } int64_val: 4 } }",
)
grpc("predict-unknown-filter", "Predict", f"model_spec {{ name: 'tiny' }} output_filter: 'q' {X12}")
grpc("predict-missing-input", "Predict", "model_spec { name: 'tiny' }")
grpc(
    "predict-unknown-input",
    "Predict",
    "model_spec { name: 'tiny' } inputs { key: 'zz' value { dtype: DT_FLOAT "
    "tensor_shape { dim { size: 1 } } float_val: 1 } }",
)
grpc(
    "predict-wrong-dtype",
    "Predict",
    "model_spec { name: 'solo' } inputs { key: 'x' value { dtype: DT_STRING "
    "tensor_shape { dim { size: 1 } } string_val: 'a' } }",
    loose=True,
)
grpc(
    "predict-bad-content",
    "Predict",
    "model_spec { name: 'solo' } inputs { key: 'x' value { dtype: DT_FLOAT "
    "tensor_shape { dim { size: 3 } } tensor_content: 'ab' } }",
    loose=True,
)
grpc(
    "predict-string",
    "Predict",
    "model_spec { name: 'tiny' signature_name: 'words' } inputs { key: 'word' value { "
    "dtype: DT_STRING tensor_shape { dim { size: 2 } } string_val: 'abc' string_val: 'xyz' } }",
)
grpc(
    "predict-op-error",
    "Predict",
    "model_spec { name: 'tiny' signature_name: 'checked' } inputs { key: 'x' value { "
    "dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: -1 } }",
    loose=True,
)
grpc(
    "classify",
    "Classify",
    "model_spec { name: 'tiny' signature_name: 'classify' } input { example_list { examples { "
    "features { feature { key: 'x' value { float_list { value: 1 value: 2 } } } } } } }",
)
grpc(
    "regress",
    "Regress",
    "model_spec { name: 'tiny' signature_name: 'regress' } input { example_list { examples { "
    "features { feature { key: 'x' value { float_list { value: 4 } } } } } } }",
)
grpc("classify-empty", "Classify", "model_spec { name: 'tiny' signature_name: 'classify' }", loose=True)
grpc(
    "multi-inference",
    "MultiInference",
    "tasks { model_spec { name: 'tiny' signature_name: 'regress' } method_name: 'tensorflow/serving/regress' } "
    "input { example_list { examples { features { feature { key: 'x' value { float_list { value: 4 } } } } } } }",
)
grpc("metadata", "GetModelMetadata", "model_spec { name: 'solo' } metadata_field: 'signature_def'", loose=True)
grpc("metadata-no-field", "GetModelMetadata", "model_spec { name: 'solo' }")
grpc("metadata-bad-field", "GetModelMetadata", "model_spec { name: 'solo' } metadata_field: 'foo'")
grpc("status", "GetModelStatus", "model_spec { name: 'tiny' }")
grpc("status-version", "GetModelStatus", "model_spec { name: 'tiny' version { value: 1 } }")
grpc("status-unknown-version", "GetModelStatus", "model_spec { name: 'tiny' version { value: 9 } }")
grpc("status-unknown-model", "GetModelStatus", "model_spec { name: 'nope' }")
grpc("reload-empty", "HandleReloadConfigRequest", "", loose=True)
grpc(
    "reload-relative",
    "HandleReloadConfigRequest",
    "config { model_config_list { config { name: 'rel' base_path: 'rel/x' model_platform: 'tensorflow' } } }",
    loose=True,
)
