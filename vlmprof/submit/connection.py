"""The door of a cluster: who answers at an address, and whether it asks for a token. Before Ray is imported.

The token is shown only to a server that asked for one, never printed, and never sent on to where a server redirects.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit

from vlmprof.errors import UserError

DEFAULT = "http://127.0.0.1:8265"
OLDEST = (2, 60)
"""Of Ray on a cluster, as in pyproject.toml."""
PATIENCE_S = 20.0
_START = "start one with 'ray start --head' (docs/cluster.md), or open a tunnel with 'ray dashboard cluster.yaml'"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A cluster that answers."""

    url: str
    ray: str
    """Version of Ray there."""
    token: str = field(default="", repr=False)
    """What it asked for; empty where it asks for nothing."""

    @property
    def headers(self) -> dict[str, str]:
        """For every request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What its user should know."""
        said = []
        if not self.token:
            said.append(
                f"the cluster at {self.url} asks for no token: whoever reaches this port runs code there. Start Ray"
                " with RAY_AUTH_MODE=token"
            )
        elif self.url.startswith("http://") and not _is_loopback(self.url):
            said.append(f"the token travels to {self.url} unencrypted; a tunnel keeps it private (docs/cluster.md)")
        if loose := _loose_token_file() if self.token else None:
            said.append(f"other users of this machine can read your token: chmod 600 {loose}")
        if self.ray != version("ray"):
            said.append(f"the cluster runs Ray {self.ray}, here is {version('ray')}")
        return tuple(said)


def connect(address: str) -> Connection:
    """Who answers at an address.

    Raises:
        UserError: nobody does, it is no Ray dashboard, the token is missing or wrong, or Ray is too old there.
    """
    url = _url(address)
    token = ""
    status, body = _get(url, {})
    if status in (401, 403):
        token = _token(url)
        status, body = _get(url, {"Authorization": f"Bearer {token}"})
    if status in (401, 403):
        raise UserError(f"the cluster at {url} does not know the token in {_token_source()}; copy the cluster's own")
    found = _parsed(body) if status == 200 else {}
    if "ray_version" not in found:
        raise UserError(f"what answers at {url} is not the dashboard of a Ray cluster (status {status}); {_START}")
    numbers = tuple(int(part) for part in re.findall(r"\d+", str(found["ray_version"]))[:2])
    if numbers < OLDEST:
        least = ".".join(map(str, OLDEST))
        raise UserError(
            f"the cluster at {url} runs Ray {found['ray_version']}, and vlmprof needs {least} or newer there"
        )
    return Connection(url=url, ray=str(found["ray_version"]), token=token)


def _url(address: str) -> str:
    url = address if "://" in address else f"http://{address}"
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UserError(f"expected the URL of a Ray dashboard, such as {DEFAULT}, got '{address}'")
    if urlsplit(url).username or urlsplit(url).password:
        raise UserError(
            "an address holds no password: it would stand in logs; the token comes from RAY_AUTH_TOKEN_PATH"
        )
    return url.rstrip("/")


@final
class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token is for the server that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    request = urllib.request.Request(f"{url}/api/version", headers=dict(headers))
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read(10_000)
    except urllib.error.HTTPError as error:
        return error.code, b""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"no Ray cluster answers at {url}: {reason}; {_START}") from None


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _token_file() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def _token_source() -> str:
    return "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(_token_file())


def _token(url: str) -> str:
    try:
        token = (os.environ.get("RAY_AUTH_TOKEN") or _token_file().read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError):
        token = ""
    if not token:
        raise UserError(
            f"the cluster at {url} asks for a token, and there is none in RAY_AUTH_TOKEN nor in {_token_file()}; copy"
            f" the cluster's own there (on its head: ~/.ray/auth_token), and chmod 600 it"
        )
    return token


def _loose_token_file() -> Path | None:
    file = _token_file()
    if os.environ.get("RAY_AUTH_TOKEN") or not file.is_file():
        return None
    return file if file.stat().st_mode & 0o077 else None


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
