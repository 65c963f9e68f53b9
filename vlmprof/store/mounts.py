"""Whether other hosts may write to a folder, from the kernel's list of mounts.

A lock of the kernel keeps out every process of its own host and, on a disk of that host, there is nobody else. On
anything else (NFS, Lustre, CephFS, a FUSE mount) a lock may be unknown to other hosts, so it is not relied upon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
_LOCAL = "bcachefs btrfs exfat ext2 ext3 ext4 f2fs jfs nilfs2 ntfs3 overlay ramfs reiserfs tmpfs ufs vfat xfs zfs"
OF_ONE_HOST = frozenset(_LOCAL.split(" "))
"""Types of file systems that one kernel alone writes to; any other type is taken for shared."""


def seen_by_other_hosts(folder: Path) -> bool:
    """Whether the file system of a folder, or of what is there of its path, may be mounted elsewhere too."""
    if not MOUNTS.is_file():
        return False  # no Linux: the disk of a laptop
    path = folder.absolute().resolve()
    mounts = dict(_mounts(MOUNTS.read_text(encoding="utf-8", errors="replace")))
    kinds = [mounts[parent] for parent in (path, *path.parents) if parent in mounts]
    return bool(kinds) and kinds[0] not in OF_ONE_HOST


def _mounts(text: str) -> Iterator[tuple[Path, str]]:
    # Fields as in proc(5): the fifth is the mount point, the first after the lone hyphen is the type.
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        yield Path(_unescaped(before.split(" ")[4])), after.split(" ")[0]


def _unescaped(name: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)
