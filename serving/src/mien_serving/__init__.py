"""Serving: TensorFlow Serving's model server on the TensorFlow that is installed."""

from mien_serving._local_model_server import LocalModelServer, LocalModelServerError

__all__ = ["LocalModelServer", "LocalModelServerError"]
