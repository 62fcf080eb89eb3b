"""One loaded version: a SavedModel, its signatures, and how a request is computed with it."""
