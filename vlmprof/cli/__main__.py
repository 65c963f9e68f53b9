"""``python -m vlmprof.cli``: the command line where no script is installed, as on a cluster."""

from vlmprof.cli import main

if __name__ == "__main__":
    main()
