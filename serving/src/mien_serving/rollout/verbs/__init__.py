"""The verbs of ``mien rollout``, one module each; `change` is what those that change servers have in common."""
