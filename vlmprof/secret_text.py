"""What looks like a secret in a text, by its shape or because it is the value of a secret variable.

Used where a text is refused because of it (``submit.secret_scan``), and where it is written although it may hold one:
the message of an error can quote a proxy with its password, and the ledger keeps messages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

NAMES = re.compile(
    r"token|secret|passw|passphrase|pass$|pwd$|credential|private|api_?key|access_?key|_key$|^key$|auth|cookie"
    r"|connection_?string|_sas$|_dsn$",
    re.IGNORECASE,
)
"""Parts of the names of secret variables."""
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
"""Fewest characters of a secret variable's value that is searched for."""


def secret_values() -> Iterator[tuple[str, str]]:
    """(name, value) of the variables of this process whose values are secrets; none that is a path or a plain word."""
    for name, value in os.environ.items():
        if NAMES.search(name) and len(value) >= MIN_LENGTH and not _is_plain(value):
            yield name, value


def without_secrets(text: str) -> str:
    """The text with ``<what it is>`` in the place of everything that looks like a secret."""
    for name, value in sorted(secret_values(), key=lambda item: -len(item[1])):
        text = text.replace(value, f"<the value of {name}>")
    for what, shape in SHAPES.items():
        text = re.sub(shape, f"<{what}>", text)
    return text


def _is_plain(value: str) -> bool:
    """Whether a value is a path or a single word, such as a mode: these are not secrets."""
    return value.startswith(("/", "~")) or bool(re.fullmatch(r"[a-z]+", value))
