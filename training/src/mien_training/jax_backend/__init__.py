"""Training on JAX, which is for GPUs; the weights load under TensorFlow."""
