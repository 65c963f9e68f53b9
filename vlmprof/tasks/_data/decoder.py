"""Worker process of ``tasks._data.prefetch``: decodes one picture per line of standard input into the cache."""

from __future__ import annotations

import json
import logging
import sys

from vlmprof.tasks._data.pictures import StoredPicture


def main() -> None:
    """Decode pictures until standard input closes; prints the key of each, or an empty line when it failed."""
    logging.disable()  # the process that opens the picture says what there is to say
    for line in sys.stdin:
        stored = StoredPicture(**json.loads(line))
        try:
            stored()
        except Exception:  # the process that opens the picture reports the error, for its own sample
            print("", flush=True)
            continue
        print(stored.key, flush=True)


if __name__ == "__main__":
    main()
