"""Finds what looks like a secret, so that it is not sent with a job: Ray's dashboard shows a job to all its users.

Secrets are recognized by names (of variables and files) and by the key formats of well-known services. This finds
mistakes; it does not prove that a job contains no secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

NAMES = re.compile(r"token|secret|passw|credential|private|api_?key|access_?key|_key$|^key$|auth|cookie", re.IGNORECASE)
"""Parts of the names of secret variables."""
FILES = re.compile(
    r"^\.|^id_(rsa|dsa|ecdsa|ed25519)|\.(pem|key|p12|pfx|kdbx|keytab)$|token|secret|passw|credential|service.?account",
    re.IGNORECASE,
)
"""Parts of the names of private files and folders."""
SHAPES = {
    "a token of the Hugging Face Hub": r"\bhf_[A-Za-z0-9]{20,}",
    "a key of AWS": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of GitHub": r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "a key of an API": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a key of Google": r"\bAIza[0-9A-Za-z_-]{35}",
    "a token of Slack": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a signed token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a URL with a password": r"://[^/\s:@]+:[^/\s@]+@",
}
MIN_LENGTH = 8
"""Fewest characters of a secret variable's value that is searched for in a job."""


def why_secret(value: str) -> str:
    """The kind of secret that a text looks like, such as ``a key of AWS``; empty if it looks like none."""
    for what, shape in SHAPES.items():
        if re.search(shape, value):
            return what
    for name, secret in os.environ.items():
        if NAMES.search(name) and len(secret) >= MIN_LENGTH and secret in value and not _is_plain(secret):
            return f"the value of {name}"
    return ""


def why_secret_variable(name: str, value: str) -> str:
    """The same for an environment variable, whose name is checked too."""
    return "a secret, by its name" if NAMES.search(name) else why_secret(value)


def why_secret_file(path: PurePosixPath) -> str:
    """The same for a file, by its name and the names of the folders above it."""
    name = next((part for part in path.parts if FILES.search(part)), "")
    return f"something private, by the name '{name}'" if name else ""


def texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """(field, text) of all strings in nested mappings and sequences, including keys."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield field, str(name)
            yield from texts(inner, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from texts(inner, f"{field}[{i}]")


def _is_plain(value: str) -> bool:
    """Whether a value is a path or a single word, such as a mode: these are not secrets."""
    return value.startswith(("/", "~")) or bool(re.fullmatch(r"[a-z]+", value))
