"""Load a SavedModel into a TensorFlow session, as TensorFlow's C++ loader does for TensorFlow Serving.

TensorFlow's loader for Python creates Python objects for all nodes and functions of the graph. That blocks all other
threads, and so all requests, for a second or more. Here the graph goes directly to TensorFlow's C API.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.client import pywrap_tf_session as c_api

from mien_serving.core.status import Code, StatusError
from mien_serving.servables.session_options import SessionOptions

logger = logging.getLogger(__name__)

_INIT_OP: Final = "__saved_model_init_op"
_INIT_OP_COLLECTIONS: Final = ("saved_model_main_op", "legacy_init_op")
_ASSETS_COLLECTION: Final = "saved_model_assets"


@dataclass(frozen=True)
class LoadedModel:
    """A graph in a session, with its variables restored.

    Attributes:
        session: The `tf.compat.v1.Session`.
        signatures: TensorFlow's ``SignatureDef`` by name.
        tensors: The inputs and outputs of all signatures by name, as the session takes them.
    """

    session: Any
    signatures: Mapping[str, Any]
    tensors: Mapping[str, Any]


def load_saved_model(path: Path, options: SessionOptions) -> LoadedModel:
    """Load one graph of a SavedModel.

    Args:
        path: The folder that holds ``saved_model.pb`` or ``saved_model.pbtxt``.
        options: Which graph to load, and how to run it.

    Raises:
        StatusError: The SavedModel cannot be loaded.
    """
    _check_files(path)
    meta_graph = _find_meta_graph(_read(path, options.saved_model_tags), options.saved_model_tags)
    config = tf.compat.v1.ConfigProto.FromString(options.config)
    config.intra_op_parallelism_threads = options.intra_op_parallelism or config.intra_op_parallelism_threads
    config.inter_op_parallelism_threads = options.inter_op_parallelism or config.inter_op_parallelism_threads
    if options.gpu_memory_fraction:
        config.gpu_options.per_process_gpu_memory_fraction = options.gpu_memory_fraction
    if options.bfloat16:
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = RewriterConfig.ON
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    try:
        tensors, restore = _import(session.graph, meta_graph, path)
        session._extend_graph()
        for feeds, operation in restore:
            session._call_tf_sessionrun(None, feeds, [], [operation], None)
    except tf.errors.OpError as error:
        session.close()
        raise StatusError(Code(error.error_code), error.message) from error
    return LoadedModel(session, meta_graph.signature_def, tensors)


def _check_files(path: Path) -> None:
    """Refuse a folder that contains a named pipe or a device, from which TensorFlow would read for ever."""
    for file in path.rglob("*"):
        if file.exists() and not file.is_file() and not file.is_dir():
            raise StatusError(Code.FAILED_PRECONDITION, f"{file} is not a regular file")


def _read(path: Path, tags: Sequence[str]) -> SavedModel:
    for name, parse in (("saved_model.pb", SavedModel.FromString), ("saved_model.pbtxt", _parse_text)):
        if (path / name).exists():
            try:
                return parse((path / name).read_bytes())
            except (DecodeError, text_format.ParseError, UnicodeDecodeError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not a SavedModel"
                message = f"Can't parse {path / name}: {reason}"
                raise _complaint_of_tensorflow(path, tags) or StatusError(Code.DATA_LOSS, message) from error
    raise StatusError(
        Code.NOT_FOUND,
        f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}. Check that "
        "the directory exists and that you have the right permissions for accessing it.",
    )


def _complaint_of_tensorflow(path: Path, tags: Sequence[str]) -> StatusError | None:
    """Return the error of TensorFlow's C++ loader, which TensorFlow Serving uses, for an unreadable SavedModel.

    The code and the text depend on how far its parser gets (OUT_OF_RANGE at the end of the file, DATA_LOSS before), so
    they cannot be predicted. None if its library cannot be called.
    """
    try:
        [library] = Path(tf.sysconfig.get_lib()).glob("libtensorflow_cc.*")
        tensorflow = ctypes.CDLL(str(library))
        new_status, load = tensorflow.TF_NewStatus, tensorflow.TF_LoadSessionFromSavedModel
    except (ValueError, OSError, AttributeError):
        return None
    for function in (new_status, load, tensorflow.TF_NewSessionOptions, tensorflow.TF_NewGraph):
        function.restype = ctypes.c_void_p
    tensorflow.TF_Message.restype = ctypes.c_char_p
    status, options, graph = map(
        ctypes.c_void_p, (new_status(), tensorflow.TF_NewSessionOptions(), tensorflow.TF_NewGraph())
    )
    names = (ctypes.c_char_p * len(tags))(*(tag.encode() for tag in tags))
    load(options, None, os.fsencode(path), names, len(tags), graph, None, status)
    code, message = Code(tensorflow.TF_GetCode(status)), tensorflow.TF_Message(status).decode(errors="replace")
    tensorflow.TF_DeleteStatus(status)
    tensorflow.TF_DeleteSessionOptions(options)
    tensorflow.TF_DeleteGraph(graph)
    return StatusError(code, message) if code is not Code.OK else None


def _parse_text(text: bytes) -> SavedModel:
    return text_format.Parse(text, SavedModel())


def _find_meta_graph(saved_model: SavedModel, tags: Sequence[str]) -> Any:
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return meta_graph
    raise StatusError(
        Code.NOT_FOUND,
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(tags)} }}. To inspect "
        "available tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`",
    )


def _import(graph: Any, meta_graph: Any, path: Path) -> tuple[Mapping[str, Any], list[tuple[dict[Any, Any], Any]]]:
    """Import a graph definition into an empty graph.

    Returns:
        The tensors of the signatures by name, and the runs before the first request, each with feeds and operation.
    """
    saver, init_op = meta_graph.saver_def, _init_op(meta_graph, path)
    variables = path / "variables" / "variables"
    has_variables = variables.with_name("variables.index").exists()
    if not has_variables:
        logger.info("%s has no variables; none were restored", path)
    assets = {asset.tensor_info.name: path / "assets" / asset.filename for asset in _assets(meta_graph)}
    wanted = {*assets, *_signature_tensors(meta_graph), *([saver.filename_tensor_name] if has_variables else [])}
    operations = [*([saver.restore_op_name] if has_variables else []), *([init_op] if init_op else [])]
    tensor_of, operation_of = _import_graph_def(graph, meta_graph.graph_def, wanted, operations)
    feeds = {tensor_of[name]: np.array(str(file), np.object_) for name, file in assets.items()}
    runs = [(dict(feeds), operation_of[name]) for name in operations]
    if has_variables:
        runs[0][0][tensor_of[saver.filename_tensor_name]] = np.array(str(variables), np.object_)
    return tensor_of, runs


def _import_graph_def(
    graph: Any, graph_def: Any, tensors: Collection[str], operations: Collection[str]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Import through the C API, which returns only the tensors and operations that were named before the import."""
    options = c_api.TF_NewImportGraphDefOptions()
    definition = c_api.TF_NewBufferFromString(graph_def.SerializeToString())
    try:
        for tensor in tensors:
            node, _, output = tensor.partition(":")
            c_api.TF_ImportGraphDefOptionsAddReturnOutput(options, node, int(output or 0))
        for operation in operations:
            c_api.TF_ImportGraphDefOptionsAddReturnOperation(options, operation)
        with graph._c_graph.get() as c_graph:
            results = c_api.TF_GraphImportGraphDefWithResults(c_graph, definition, options)
        found = (
            dict(zip(tensors, c_api.TF_ImportGraphDefResultsReturnOutputs(results), strict=True)),
            dict(zip(operations, c_api.TF_ImportGraphDefResultsReturnOperations(results), strict=True)),
        )
        c_api.TF_DeleteImportGraphDefResults(results)
    finally:
        c_api.TF_DeleteBuffer(definition)
        c_api.TF_DeleteImportGraphDefOptions(options)
    return found


def _signature_tensors(meta_graph: Any) -> set[str]:
    """Return the existing inputs and outputs of all signatures; requests for one that does not exist fail later."""
    nodes = {node.name for node in meta_graph.graph_def.node}
    return {
        info.name
        for name, signature in meta_graph.signature_def.items()
        if name != _INIT_OP
        for info in (*signature.inputs.values(), *signature.outputs.values())
        if info.name.partition(":")[0] in nodes
    }


def _init_op(meta_graph: Any, path: Path) -> str:
    """Return the operation that initialises tables; empty if there is none."""
    if _INIT_OP in meta_graph.signature_def:
        return str(meta_graph.signature_def[_INIT_OP].outputs[_INIT_OP].name)
    for collection in _INIT_OP_COLLECTIONS:
        if collection in meta_graph.collection_def:
            names = meta_graph.collection_def[collection].node_list.value
            if len(names) != 1:
                raise StatusError(Code.FAILED_PRECONDITION, f"Expected exactly one main op in : {path}")
            return str(names[0])
    return ""


def _assets(meta_graph: Any) -> Sequence[Any]:
    if meta_graph.asset_file_def:
        return list(meta_graph.asset_file_def)
    packed = meta_graph.collection_def[_ASSETS_COLLECTION].any_list.value
    return [AssetFileDef.FromString(asset.value) for asset in packed]
