"""Where the API is, and where a local cluster keeps its state.

The API is the first of: what `--api-url` says, ENGINE_API_URL, the `endpoint` file that `engine up`
leaves in its state directory, and http://127.0.0.1:8420. Nothing here asks the network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InvalidInput

DEFAULT_API_URL = "http://127.0.0.1:8420"
DEFAULT_ZOOKEEPER = "127.0.0.1:21810"
ENDPOINT_FILE = "endpoint"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The API's base URL without a trailing slash, ZooKeeper's `host:port`, and who said so."""

    api_url: str
    zookeeper: str
    source: str


def state_directory(option: str | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """`--state-dir`, else $XDG_STATE_HOME/engine-ha, ~/.local/state/engine-ha, or ./.engine-state."""
    if option:
        return Path(option).expanduser()
    # The XDG base directory specification has relative paths ignored.
    xdg = environ.get("XDG_STATE_HOME", "")
    if xdg.startswith("/"):
        return Path(xdg, "engine-ha")
    home = environ.get("HOME", "")
    if home.startswith("/"):
        return Path(home, ".local", "state", "engine-ha")
    return Path(".engine-state")


def find_endpoint(
    *,
    api_url: str | None = None,
    state_dir: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Endpoint:
    """Raises `InvalidInput` when what was given is no http URL, or the endpoint file is no JSON."""
    directory = state_directory(state_dir, environ)
    written = read_endpoint_file(directory / ENDPOINT_FILE)
    zookeeper = written.get("zookeeper", DEFAULT_ZOOKEEPER)
    for url, source in (
        (api_url, "--api-url"),
        (environ.get("ENGINE_API_URL"), "ENGINE_API_URL"),
        (written.get("api"), str(directory / ENDPOINT_FILE)),
        (DEFAULT_API_URL, "the default"),
    ):
        if url:
            return Endpoint(_checked(url, source), zookeeper, source)
    raise AssertionError("the default is never empty")


def read_endpoint_file(path: Path) -> dict[str, str]:
    """What `engine up` wrote, or nothing where none is running."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read ({error}); remove it, or name --api-url") from error
    if not isinstance(values, dict):
        raise InvalidInput(f"{path} should hold a JSON object; remove it, or name --api-url")
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _checked(url: str, source: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise InvalidInput(f"{source}: {url!r} is no URL; it should look like {DEFAULT_API_URL}")
    return url.rstrip("/")
