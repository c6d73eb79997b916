"""The commands that come with the engine: entry points `engine.commands`."""
