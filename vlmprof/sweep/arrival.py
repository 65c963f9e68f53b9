"""Moved to ``vlmprof.submit.startup_report``; kept for one release, for jobs that were submitted by vlmprof 0.1."""

import sys

from vlmprof.submit.startup_report import main

if __name__ == "__main__":
    main(sys.argv[1:])
