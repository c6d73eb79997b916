"""Finds plugins by name in their stevedore namespace, and says clearly what is wrong with one."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from stevedore import ExtensionManager
from stevedore.exception import NoMatches

from engine.errors import InvalidInput
from engine.plugin import CONTRACT_VERSION


def installed(namespace: str) -> list[str]:
    """Names of the installed plugins of `namespace`, sorted; nothing is imported."""
    return sorted({entry_point.name for entry_point in entry_points(group=namespace)})


def load_class(namespace: str, name: str) -> Any:
    """The class that entry point `name` of `namespace` stands for.

    Raises `InvalidInput` when there is none (naming those that there are), when two distributions
    offer it, when its import fails, or when it was written for another contract version.
    """
    failures: dict[str, BaseException] = {}

    def note(_manager: Any, entry_point: Any, error: BaseException) -> None:
        failures[entry_point.name] = error

    try:
        manager = ExtensionManager(namespace, invoke_on_load=False, on_load_failure_callback=note)
    except NoMatches:
        raise InvalidInput(f"no plugin at all is installed in {namespace}") from None
    if name in failures:
        raise InvalidInput(f"plugin {name} of {namespace} cannot be imported: {failures[name]!r}")
    found = [extension for extension in manager.extensions if extension.name == name]
    if not found:
        present = ", ".join(sorted({extension.name for extension in manager.extensions})) or "none"
        raise InvalidInput(f"no plugin {name} in {namespace}; installed: {present}")
    if len(found) > 1:
        sources = ", ".join(sorted(extension.entry_point.value for extension in found))
        raise InvalidInput(f"plugin {name} of {namespace} is offered more than once: {sources}")
    plugin = found[0].plugin
    if plugin.contract != CONTRACT_VERSION:
        raise InvalidInput(
            f"plugin {name} of {namespace} is written for contract {plugin.contract},"
            f" this engine has {CONTRACT_VERSION}"
        )
    return plugin
