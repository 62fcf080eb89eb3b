"""Write the small SavedModels that the conformance cases ask about.

MODELS_DIR/tiny/1, /2   many signatures; version 2 answers one more than version 1
MODELS_DIR/solo/7       one signature, one input, one output
MODELS_DIR/models.config  names both, base paths under MODELS_DIR
"""

import tensorflow as tf


def _example(spec):
    return lambda serialized: tf.io.parse_example(serialized, spec)


class Tiny(tf.Module):
    def __init__(self, offset):
        super().__init__()
        self.offset = tf.Variable(float(offset), name="offset")

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def affine(self, x):
        return {"y": 2.0 * x + self.offset}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, name="a"),
            tf.TensorSpec([None], tf.int64, name="b"),
        ]
    )
    def two(self, a, b):
        return {"total": tf.reduce_sum(a, 1) + tf.cast(b, tf.float32), "b_plus": b + 1}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def raw(self, image_bytes):
        return {"length": tf.strings.length(image_bytes), "echo_bytes": image_bytes}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
    def words(self, word):
        return {"upper": tf.strings.upper(word)}

    @tf.function(input_signature=[tf.TensorSpec([None, 2, 2], tf.uint8, name="images")])
    def mean(self, images):
        return {"mean": tf.reduce_mean(tf.cast(images, tf.float32), [1, 2])}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.bool, name="flag"),
            tf.TensorSpec([None], tf.int32, name="i"),
            tf.TensorSpec([None], tf.float64, name="d"),
        ]
    )
    def kinds(self, flag, i, d):
        return {"flag": tf.logical_not(flag), "i": -i, "d": d / 3.0}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def scalar(self, x):
        return {"y": x * x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def checked(self, x):
        with tf.control_dependencies([tf.debugging.assert_greater_equal(x, 0.0, message="x must not be negative")]):
            return {"root": tf.sqrt(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        x = _example({"x": tf.io.FixedLenFeature([2], tf.float32)})(inputs)["x"]
        names = tf.tile(tf.constant([["left", "right"]]), [tf.shape(x)[0], 1])
        return {"classes": names, "scores": tf.nn.softmax(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs):
        x = _example({"x": tf.io.FixedLenFeature([1], tf.float32, default_value=[5.0])})(inputs)["x"]
        return {"outputs": x[:, 0] / 2.0 + self.offset}


class Solo(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def half(self, x):
        return {"y": x / 2.0}


def main(root):
    for version in (1, 2):
        tiny = Tiny(version)
        signatures = {
            "serving_default": tiny.affine,
            "two": tiny.two,
            "raw": tiny.raw,
            "words": tiny.words,
            "mean": tiny.mean,
            "kinds": tiny.kinds,
            "scalar": tiny.scalar,
            "checked": tiny.checked,
            "classify": tiny.classify,
            "regress": tiny.regress,
        }
        tf.saved_model.save(tiny, str(root / "tiny" / str(version)), signatures=signatures)
        _set_methods(root / "tiny" / str(version))
    tf.saved_model.save(Solo(), str(root / "solo" / "7"), signatures=Solo().half)
    (root / "models.config").write_text(
        "model_config_list {\n"
        f'  config {{ name: "tiny" base_path: "{root}/tiny" model_platform: "tensorflow"\n'
        "    model_version_policy { specific { versions: 1 versions: 2 } }\n"
        '    version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 } }\n'
        f'  config {{ name: "solo" base_path: "{root}/solo" model_platform: "tensorflow" }}\n'
        "}\n",
        encoding="utf-8",
    )


def _set_methods(path):
    """Set the method names of two signatures; tf.saved_model.save marks every signature as predict."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    signatures = message.meta_graphs[0].signature_def
    signatures["classify"].method_name = "tensorflow/serving/classify"
    signatures["regress"].method_name = "tensorflow/serving/regress"
    file.write_bytes(message.SerializeToString())
