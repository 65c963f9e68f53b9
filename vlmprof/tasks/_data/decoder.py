"""The process behind ``tasks._data.prefetch``: decodes the picture that each line of its input names."""

from __future__ import annotations

import json
import sys

from vlmprof.tasks._data.pictures import StoredPicture


def main() -> None:
    """Serve until standard input closes."""
    for line in sys.stdin:
        stored = StoredPicture(**json.loads(line))
        try:
            stored()
        except Exception:  # a picture that cannot be read fails its own sample, in the process that opens it
            print("", flush=True)
            continue
        print(stored.key, flush=True)


if __name__ == "__main__":
    main()
