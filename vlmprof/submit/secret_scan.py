"""Finds what looks like a secret, so that it is not sent with a job: Ray's dashboard shows a job to all its users.

Secrets are recognized by names (of variables and files) and by the key formats of well-known services. This finds
mistakes; it does not prove that a job contains no secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from vlmprof.secret_text import NAMES, SHAPES, secret_values

FILES = re.compile(
    r"^\.|^id_(rsa|dsa|ecdsa|ed25519)|\.(pem|key|p12|pfx|kdbx|keytab)$|token|secret|passw|credential|service.?account",
    re.IGNORECASE,
)
"""Parts of the names of private files and folders."""


def why_secret(value: str) -> str:
    """The kind of secret that a text looks like, such as ``a key of AWS``; empty if it looks like none."""
    for what, shape in SHAPES.items():
        if re.search(shape, value):
            return what
    return next((f"the value of {name}" for name, secret in secret_values() if secret in value), "")


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
