"""``mien rollout``: bring new versions of a model out and back, on one server or twenty, without a lost request.

TensorFlow Serving has a configuration file, a call that reloads it, and labels that may only name loaded versions. From
the command line down:

* `command` parses arguments, calls one of the `verbs`, prints what it reports and returns the exit status.
* `verbs` has a module for each verb. A verb takes a request (`requests`), reports to a `progress`, and raises
  `errors.RolloutError`.
* `comparison` asks two versions about the same faces and judges the answers.
* `fleet` is the servers: what they have, and the one safe order in which their configuration changes.
* `loading` loads a version in a process of its own, with TensorFlow.
* `state` is what is desired, in ``models.config``, and what was done, in the journal.
"""
