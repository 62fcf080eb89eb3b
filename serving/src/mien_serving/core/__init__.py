"""Which versions of which models ought to be loaded, and what makes it so."""
