"""``python -m tests.faults.shared_disk run JOB ...``: vlmprof where every folder is one that other hosts may see too.

So no file lock of this host decides who writes, as on NFS: only the lease does.
"""

from vlmprof import cli
from vlmprof.store import filesystem

if __name__ == "__main__":
    filesystem.seen_by_other_hosts = lambda folder: True
    cli.main()
