"""The profile that ``agenthub login`` stores: where the service is, and the key to use there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from app.client.hub import HubError

DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Profile:
    """What is known without being said: a service, a key, a namespace, an agent to act as."""

    url: str = DEFAULT_URL
    api_key: str | None = None
    namespace: str | None = None
    agent: str | None = None


def profile_path() -> Path:
    """Return the file of the profile, in the user's folder for settings."""
    return Path(click.get_app_dir("agenthub")) / "profile.json"


def load_profile() -> Profile:
    """Return the stored profile, an empty one where there is none.

    Raises ``HubError`` where others may read it, or it is none.
    """
    path = profile_path()
    try:
        with path.open() as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise HubError(f"others may read {path}; run: chmod 600 {path}")
            found = json.load(file)
        known = {name: found[name] for name in asdict(Profile()) if found.get(name)}
    except FileNotFoundError:
        return Profile()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise HubError(f"{path} is no profile ({error}); run: agenthub login") from None
    return Profile(**known)


def store_profile(profile: Profile) -> Path:
    """Store a profile in a file that its owner alone reads (mode 0600), and return its path."""
    path = profile_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({name: value for name, value in asdict(profile).items() if value}, file, indent=2)
        file.write("\n")
    beside.replace(path)
    return path


def forget_profile() -> bool:
    """Remove the stored profile; tell whether there was one."""
    path = profile_path()
    if not path.exists():
        return False
    path.unlink()
    return True
