"""Tasks that ship with the engine: what is asked of another engine, or of the owner of a host."""
