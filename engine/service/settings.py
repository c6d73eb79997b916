"""What the parts of an engine are set to: the same objects for the life of the process, changed in place when
the configuration changes. Built by the composition root.
"""

from __future__ import annotations

from oslo_config import cfg

from engine import options
from engine.commands.options import settings_from as command_settings
from engine.config.settings import LiveSettings
from engine.execution.options import ExecutionSettings
from engine.scheduler.options import settings_from as job_settings
from engine.singletons.runner import settings_from as duty_settings

# Of the time that a handover may take, commands get so much, then jobs; the monitors need some, too.
_OF_COMMANDS = 0.6
_OF_JOBS = 0.2


class EngineSettings:
    """Of one engine. Raises `InvalidInput` where they do not fit together."""

    def __init__(self, conf: cfg.ConfigOpts, *, session_seconds: float) -> None:
        self._session_seconds = session_seconds
        self._live = live = LiveSettings(conf)
        self.ownership = live.keep(lambda: options.ownership_settings(conf))
        self.execution = live.keep(lambda: ExecutionSettings.from_values(conf.execution))
        self.duties = live.keep(lambda: duty_settings(conf.singletons))
        self.commands = live.keep(
            lambda: command_settings(
                conf.commands,
                session_seconds=self._session_seconds,
                handover_seconds=conf.sharding.handover_seconds * _OF_COMMANDS,
            )
        )
        self.jobs = live.keep(
            lambda: job_settings(conf.scheduler, handover_seconds=conf.sharding.handover_seconds * _OF_JOBS)
        )

    def under(self, session_seconds: float) -> None:
        """A session of so many seconds was opened; they are negotiated anew with each."""
        self._session_seconds = session_seconds
        self._live.refresh()
