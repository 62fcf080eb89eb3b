"""Fuzzing: mutated and generated input for every parser that reads what strangers send, write or store.

``make fuzz SECONDS_EACH=600`` runs every target, prints a table, and keeps each input that causes a fault; see
CONTRIBUTING.md. ``tests/test_fuzz.py`` runs the same targets for a moment.
"""
