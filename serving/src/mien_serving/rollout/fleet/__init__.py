"""The servers of a deployment: what they have, and how their configuration changes."""
