"""``python -m vlmprof``: the command line."""

from vlmprof.cli import main

if __name__ == "__main__":
    main()
