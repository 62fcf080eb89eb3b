"""Requests of several callers, computed as one batch."""
