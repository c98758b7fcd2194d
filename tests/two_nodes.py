"""A Ray cluster of two nodes on loopback: ``python -m tests.two_nodes`` prints its address, and ends with stdin.

The line ``lose`` on stdin makes the second node vanish; the answer is ``lost``.
"""

import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


def main() -> None:
    """Start the cluster, answer, and end it."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        second = cluster.add_node(**NODE)
        print(cluster.address, flush=True)
        for line in sys.stdin:
            if line == "lose\n":
                cluster.remove_node(second, allow_graceful=False)
                print("lost", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
