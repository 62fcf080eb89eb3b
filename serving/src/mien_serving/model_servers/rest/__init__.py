"""The REST API: HTTP, paths and JSON."""
