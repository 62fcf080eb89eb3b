"""Load a version in a process of its own, as a server does: only these programs import TensorFlow."""
