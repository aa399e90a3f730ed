"""Clusters that end with their test."""

from collections.abc import Iterator

import pytest

from tests.support.clusters import LocalCluster, local_cluster


@pytest.fixture
def head(tmp_path) -> Iterator[LocalCluster]:
    """One machine."""
    with local_cluster(["cluster/local.sh"], "127.0.0.1", tmp_path, CPUS="4") as cluster:
        yield cluster


@pytest.fixture
def nodes(tmp_path) -> Iterator[LocalCluster]:
    """A head without CPUs and two nodes, as docs/guide/cluster.md starts them."""
    with local_cluster(
        ["cluster/local-nodes.sh", "training:2", "data:2"], "127.0.0.2", tmp_path, "3 nodes, job server"
    ) as cluster:
        yield cluster
