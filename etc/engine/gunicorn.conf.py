"""gunicorn's settings for the API (`gunicorn -c` this file, with ENGINE_CONFIG_FILE set).

They are derived from `[api]` of the engine's configuration; set here what should differ.
"""

from engine.api.gunicorn import *  # noqa: F403
