"""The server: flags, front ends, metrics, and the object that answers requests."""
