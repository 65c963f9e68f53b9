"""Moved to ``vlmprof.submit.export``; kept for one release, for jobs that were submitted by vlmprof 0.1."""

import sys

from vlmprof.submit.export import main

if __name__ == "__main__":
    main(sys.argv[1:])
