"""``mien rollout``: new versions of a model out and back, on one server or twenty, without a lost request.

TensorFlow Serving has a configuration file, a call that reloads it, and labels that may only name loaded versions. What
is made of them here, in the order in which it reads best: `_config_text` and `_models_config` (the desired state),
`_fleet` (what the servers have), `_plan` (what a verb wants to be so), `_transition` (the one safe order in which it is
made so; `_trial` finds out why a version does not load), `_changes` (the verbs), with `_journal`, `_lock` and
`_repository` under them. `_publish` with `_verify`, `_compare` with `_faces` and `_report`, and `_status` are the verbs
that change no server.
"""
