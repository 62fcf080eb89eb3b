"""The thin client of Mien: faces in, emotions and key points out, from TensorFlow Serving, without TensorFlow."""
