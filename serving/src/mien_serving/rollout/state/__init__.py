"""What is desired, in ``models.config``, and what was done, in the journal."""
