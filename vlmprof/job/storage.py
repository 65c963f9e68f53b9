"""Where results may be stored: checks of a path or URI by its text alone, without access to a file system.

``VLMPROF_STORAGE`` names the storage root, and no job writes outside it. The root stands for the folder ``results``: a
job without ``storage`` writes to ``<root>/<name>``, and one with ``storage: results/mine`` to ``<root>/mine``. Without
a root, a relative path starts in the working folder and an absolute one is taken as it is: then the user who starts the
sweep decides. A relative path must not lead upwards, also not in the percent-encoding of a URI, which whoever opens it
decodes.

A job is kept with its results, so that a URI must not hold keys: it is checked against what a URI needs, not against a
list of names of keys, and a message names the parameter and never its value.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, unquote, urlsplit

from vlmprof.errors import UserError

STORAGE = "VLMPROF_STORAGE"
DEFAULT = "results"


def results_place(storage: str, name: str) -> str:
    """A folder or URL for the results of a job.

    Args:
        storage: Of the job; empty if the job has none.
        name: Of the job.
    """
    root = os.environ.get(STORAGE, "")
    if is_anchored(storage):
        return os.path.expanduser(storage)  # noqa: PTH111 (it may be a URL)
    if not root:
        return storage or f"{DEFAULT}/{name}"
    below = PurePosixPath(storage or name)
    if storage and below.parts[0] == DEFAULT:
        below = below.relative_to(DEFAULT)
    place, mark, query = root.partition("?") if "://" in root else (root, "", "")
    return f"{place.rstrip('/')}/{below}{mark}{query}"


def inside_root(storage: str) -> str:
    """The ``storage`` of a job, checked by itself; where it leads is checked with the job's name, see ``why_outside``.

    Raises:
        ValueError: it leads upwards, or to a place outside the storage root.
    """
    root = os.environ.get(STORAGE, "")
    if what := problem(root):
        raise ValueError(f"{STORAGE} names no place for results: {what}")
    if "\0" in storage:
        raise ValueError("a NUL character is part of no path")
    if ".." in _parts(storage):
        raise ValueError(f"'..' leads out of the folder that results belong in, got '{storage}'")
    if "://" in root and not is_anchored(storage) and re.search("[?#]", storage):
        raise ValueError(f"expected a name below {_shown(root)}, which {STORAGE} names, without '?' or '#'")
    if root and is_anchored(storage) and not _is_below(storage, root):
        raise ValueError(
            f"expected a place inside {_shown(root)}, which {STORAGE} names, got '{_shown(storage)}'; leave it out for"
            f" {_shown(root)}/<name>"
        )
    return storage


def why_outside(where: str) -> str:
    """Why a place is not inside the storage root; empty where it is, or where there is no root.

    A link inside the root is followed, to whichever place the job's ``storage`` or its name leads by it.
    """
    root = os.environ.get(STORAGE, "")
    if not root or _is_below(where, root):
        return ""
    return f"{where} leads by a link out of {_shown(root)}, which {STORAGE} names; results are written inside it only"


def is_anchored(place: str) -> bool:
    """Whether a path starts at the root of the file system or at a home folder, or is a URL."""
    return "://" in place or place.startswith(("/", "~"))


def _is_below(place: str, root: str) -> bool:
    local, local_root = _local(place), _local(root)
    if local is not None and local_root is not None:
        return _resolved(local).is_relative_to(_resolved(local_root))
    if local is not None or local_root is not None:
        return False
    # The same server, region and account: another endpoint is another store, whatever the bucket is called.
    base, _, query = place.partition("?")
    root_base, _, root_query = root.partition("?")
    return query == root_query and base.startswith(f"{root_base.rstrip('/')}/")


def _local(place: str) -> Path | None:
    """The path that a place on a mounted file system has; None for one in an object store."""
    if "://" not in place:
        return Path(place)
    if not place.startswith("file://"):
        return None
    return Path(unquote(place.removeprefix("file://").partition("?")[0]))


def _resolved(path: Path) -> Path:
    """The path with its links followed.

    Raises:
        ValueError: there is no such user (``~name``), the name is too long, or links lead to each other.
    """
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"'{path}' leads nowhere: {getattr(error, 'strerror', None) or error}") from None


def _parts(place: str) -> list[str]:
    """The names in a path or URI as whoever opens it may read them: decoded, and a backslash as a slash."""
    text = place.partition("?")[0] if "://" in place else place
    while (decoded := unquote(text)) != text:
        text = decoded
    return re.split(r"[/\\]", text)


def _shown(uri: str) -> str:
    """A URI in a message: without its query, in which a root may have what is nobody's business."""
    return uri.partition("?")[0] if "://" in uri else uri


STORES = ("file", "s3", "gs", "gcs", "abfs", "abfss")
"""URI schemes of stores whose objects appear only when complete; files of HDFS are visible while they are written."""


PARAMETERS = frozenset({
    "region", "scheme", "endpoint_override", "allow_bucket_creation", "allow_bucket_deletion",
    "check_directory_existence_before_creation", "force_virtual_addressing", "tls_ca_file_path",
    "tls_ca_dir_path", "tls_verify_certificates", "background_writes", "allow_delayed_open",
    "retry_limit_seconds", "project_id", "blob_storage_authority", "dfs_storage_authority", "blob_storage_scheme",
    "dfs_storage_scheme", "enable_tls",
})  # fmt: skip
"""Parameters of pyarrow's URIs that say where a store is. Any other may be a key: Azure's are, whatever their names."""


def problem(where: str) -> str:
    """What is wrong with a path or URI for results; empty if nothing is. Never says the value of a key."""
    scheme, separator, rest = where.partition("://")
    if not separator:
        return ""
    if scheme not in STORES:
        named = f"'{scheme}://'" if scheme.isalnum() else "this kind of URI"
        return f"{named} is not supported; expected a path, or one of {', '.join(f'{name}://' for name in STORES)}"
    if what := key_in_url(where, PARAMETERS):
        # The job is written to the ledger, which must not contain keys.
        return f"a URI must not contain keys, and {what}; set those of {scheme}:// in the environment"
    if "\\" in where or "#" in where:
        return "a URI has no backslash and no '#'; write %5C or %23 for one in a name"
    return "" if rest.strip("/") and ".." not in _parts(rest) else f"'{_shown(where)}' names no folder"


_KEYS = re.compile(
    r"secret|token|passw|credential|signature|api_?key|access_?key|account_?key|shared_?key|^(sig|sas|key|pwd|auth)$",
    re.IGNORECASE,
)


def key_in_url(url: str, allowed: frozenset[str] | None = None) -> str:
    """Which part of a URL holds a key, or may: ``its parameter 'sig' is none that ...``; empty where none does.

    Args:
        url: With ``://`` in it.
        allowed: Its only parameters that are none; None: all whose names do not sound like one.
    """
    scheme, _, rest = url.partition("://")
    try:
        query = urlsplit(url).query
    except ValueError:  # brackets that are no address
        query = url.partition("?")[2]
    for name, value in parse_qsl(query.replace(";", "&"), keep_blank_values=True):
        if name not in allowed if allowed is not None else _KEYS.search(name):
            return f"its parameter '{name[:40]}' may be one"
        if "@" in unquote(value):
            return f"its parameter '{name[:40]}' holds a user and a password"
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    user, at, host = unquote(unquote(authority)).rpartition("@")
    if at and (":" in user or (scheme == "s3") or (scheme in ("gs", "gcs") and user != "anonymous")):
        return "what stands before its '@' is one"
    if scheme in STORES and ":" in host and not host.rpartition(":")[2].isdigit() and not host.endswith("]"):
        return "what stands after its ':' may be one"
    return ""


def storable(where: str) -> str:
    """The same path or URI, checked for pydantic.

    Raises:
        ValueError: see ``problem``.
    """
    if message := problem(where):
        raise ValueError(message)
    return where


def mounted(where: str) -> Path:
    """The results folder as a path, for features that need a mounted file system.

    Raises:
        UserError: it is in an object store.
    """
    if "://" in where:
        raise UserError(f"this needs a folder on a mounted file system, and the results are in {where}")
    return Path(where)
