"""Kaggle's face files in, trained residual networks and versioned SavedModels out."""

from importlib import metadata

__version__ = metadata.version("mien-training")
