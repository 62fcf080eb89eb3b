"""The version of all Mien distributions, which their builds read from here."""

__version__ = "0.2.0"
