"""``ray start`` for a second node on loopback: ``python -m tests.faults.second_node start --address=... --block``.

The switch that keeps Ray's servers on 127.0.0.1 is meant for desktops, so it also refuses to join a second node to a
cluster. Here both nodes are on this machine, and the refusal alone is lifted.
"""

from __future__ import annotations

from ray._private import ray_constants, services
from ray.scripts import scripts


def main() -> None:
    ray_constants.ENABLE_RAY_CLUSTER = True  # in this process; its children read the environment, where it is off
    services.get_node_ip_address = lambda address=None: "127.0.0.1"
    scripts.main()


if __name__ == "__main__":
    main()
