"""Kaggle's face files in, trained residual networks and versioned SavedModels out."""
