"""Serving: TensorFlow Serving's model server on the TensorFlow that is installed."""
