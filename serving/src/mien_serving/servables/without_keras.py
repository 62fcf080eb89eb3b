"""Import TensorFlow without Keras, which takes half the time of the import, and which serving does not use."""

import sys


def import_tensorflow() -> None:
    """Import TensorFlow, but not Keras, which TensorFlow imports at its end if it is installed.

    Does nothing if TensorFlow has been imported already. Keras can still be imported afterwards.
    """
    if "tensorflow" in sys.modules or "keras" in sys.modules:
        return
    sys.modules["keras"] = None  # type: ignore[assignment]  # makes `import keras` fail, which TensorFlow allows for
    try:
        import tensorflow  # noqa: F401
    finally:
        del sys.modules["keras"]
