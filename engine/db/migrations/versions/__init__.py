"""One file a step; each applies to the one before."""
