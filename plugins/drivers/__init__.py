"""Host drivers: each carries the engine's calls to one kind of agent (entry point `engine.drivers`)."""
