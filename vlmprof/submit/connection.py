"""``connect``: checks which server answers at an address and whether it requires a token, before Ray is imported.

The token is sent only to a server that requires one, never printed, and never sent to the target of a redirect.
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
"""Oldest version of Ray on a cluster, as in pyproject.toml."""
TIMEOUT_S = 20.0
_START = "start one with 'ray start --head' (docs/cluster.md), or open a tunnel with 'ray dashboard cluster.yaml'"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A cluster that has answered."""

    url: str
    ray: str
    """Version of Ray on the cluster."""
    token: str = field(default="", repr=False)
    """The token it requires; empty if it requires none."""

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of every request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Risks of this connection, for the user."""
        warnings = []
        if not self.token:
            warnings.append(
                f"the cluster at {self.url} asks for no token: anyone who can reach this port can run code there."
                " Start Ray with RAY_AUTH_MODE=token"
            )
        elif self.url.startswith("http://") and not _is_loopback(self.url):
            warnings.append(f"the token is sent to {self.url} unencrypted; a tunnel keeps it private (docs/cluster.md)")
        if readable := _readable_token_file() if self.token else None:
            warnings.append(f"other users of this machine can read your token: chmod 600 {readable}")
        if self.ray != version("ray"):
            warnings.append(f"the cluster runs Ray {self.ray}, this machine has Ray {version('ray')}")
        return tuple(warnings)


def connect(address: str) -> Connection:
    """Connect to the Ray dashboard at an address.

    Raises:
        UserError: nothing answers, it is not a Ray dashboard, the token is missing or wrong, or its Ray is too old.
    """
    url = _url(address)
    token = ""
    status, body = _get(url, {})
    if status in (401, 403):
        token = _token(url)
        status, body = _get(url, {"Authorization": f"Bearer {token}"})
    if status in (401, 403):
        raise UserError(
            f"the cluster at {url} does not accept the token in {token_source()}; copy the cluster's own token there"
        )
    info = _parsed(body) if status == 200 else {}
    if "ray_version" not in info:
        raise UserError(f"what answers at {url} is not the dashboard of a Ray cluster (status {status}); {_START}")
    numbers = tuple(int(part) for part in re.findall(r"\d+", str(info["ray_version"]))[:2])
    if numbers < OLDEST:
        least = ".".join(map(str, OLDEST))
        raise UserError(
            f"the cluster at {url} runs Ray {info['ray_version']}, and vlmprof needs {least} or newer there"
        )
    return Connection(url=url, ray=str(info["ray_version"]), token=token)


def _url(address: str) -> str:
    url = address if "://" in address else f"http://{address}"
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UserError(f"expected the URL of a Ray dashboard, such as {DEFAULT}, got '{address}'")
    if urlsplit(url).username or urlsplit(url).password:
        raise UserError(
            "an address must not contain a password, which would appear in logs; put the token into the file"
            " that RAY_AUTH_TOKEN_PATH names"
        )
    return url.rstrip("/")


@final
class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token is only for the server that the user named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    request = urllib.request.Request(f"{url}/api/version", headers=dict(headers))
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read(10_000)
    except urllib.error.HTTPError as error:
        return error.code, b""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"no Ray cluster answers at {url}: {reason}; {_START}") from None


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        info = json.loads(body)
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}


def _token_file() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def token_source() -> str:
    """The variable or the file that the token is read from."""
    return "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else str(_token_file())


def _token(url: str) -> str:
    try:
        token = (os.environ.get("RAY_AUTH_TOKEN") or _token_file().read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError):
        token = ""
    if not token:
        raise UserError(
            f"the cluster at {url} asks for a token, and there is none in RAY_AUTH_TOKEN nor in {_token_file()}; copy"
            f" the cluster's own there (on its head node: ~/.ray/auth_token), and chmod 600 it"
        )
    return token


def _readable_token_file() -> Path | None:
    """The token's file, if other users can access it."""
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
