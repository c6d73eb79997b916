"""An engine process: `root.py` builds all its parts and owns their scopes, `__main__.py` is the program."""

GC_THRESHOLDS = (20_000, 20, 10)
"""Ten thousand hosts are a million objects that live long, and taking them over makes them at once: with
Python's own thresholds a fifth of a takeover is spent collecting, in pauses of 0.2 s."""
