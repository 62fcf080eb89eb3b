"""Which versions of which models to load, and the manager that loads and unloads them."""
