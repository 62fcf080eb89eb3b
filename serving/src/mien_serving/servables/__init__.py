"""One loaded version: a SavedModel, its signatures, and how it answers requests."""
