"""A month of trouble in an hour: a whole deployment on several hosts, under load, while everything goes wrong in turn.

``python -m soak --minutes 60`` runs it; docs/explanation/soak.md says what it does and what it counts. ``python -m
soak.leaks --swaps 1000`` looks for what grows.
"""
