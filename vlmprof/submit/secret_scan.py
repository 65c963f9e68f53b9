"""What looks like a secret does not travel with a job: what Ray keeps of a job is shown to everyone on its dashboard.

Told by names (of variables and files) and by the shapes that well-known services give their keys. This finds slips; it
is no proof that there is none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

NAMES = re.compile(r"token|secret|passw|credential|private|api_?key|access_?key|_key$|^key$|auth|cookie", re.IGNORECASE)
"""In the name of a variable."""
FILES = re.compile(
    r"^\.|^id_(rsa|dsa|ecdsa|ed25519)|\.(pem|key|p12|pfx|kdbx|keytab)$|token|secret|passw|credential|service.?account",
    re.IGNORECASE,
)
"""In the name of a file, or of a folder above it."""
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
SHORTEST = 8
"""Characters of a variable's value from which on it is looked for elsewhere."""


def why_secret(value: str) -> str:
    """What a text looks like, such as ``a key of AWS``; empty where it looks like no secret."""
    for what, shape in SHAPES.items():
        if re.search(shape, value):
            return what
    for name, known in os.environ.items():
        if NAMES.search(name) and len(known) >= SHORTEST and known in value and not _is_plain(known):
            return f"the value of {name}"
    return ""


def why_secret_variable(name: str, value: str) -> str:
    """The same of an environment variable, by its name too."""
    return "a secret, by its name" if NAMES.search(name) else why_secret(value)


def why_secret_file(path: PurePosixPath) -> str:
    """The same of a file, by its name and the names of the folders above it."""
    found = next((part for part in path.parts if FILES.search(part)), "")
    return f"something private, by the name '{found}'" if found else ""


def texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """(field, text) of all texts in plain data, keys included."""
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
    """Paths and words, such as a mode or the place of a token, are no secrets themselves."""
    return value.startswith(("/", "~")) or bool(re.fullmatch(r"[a-z]+", value))
