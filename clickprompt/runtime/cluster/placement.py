"""Place work on nodes by label: training workers on one group of nodes, data tasks and evaluation on another.

A node is in a group if it was started with `--labels clickprompt.io/group=training` (or `=data`; on
Kubernetes the `labels` of a worker group). If no node has a group's label, its work goes wherever there is
room.
"""

from typing import Literal

import ray

from clickprompt.config import RuntimeConfig
from clickprompt.io.progress import say
from clickprompt.runtime.cluster.connect import MORE_NODES, no_room, validation_cpus

__all__ = ["GROUP_LABEL", "Group", "check_groups", "group_selector"]

GROUP_LABEL = "clickprompt.io/group"

Group = Literal["training", "data"]


def group_selector(runtime: RuntimeConfig, group: Group) -> dict[str, str] | None:
    """Return the label selector of a group's work; None means anywhere. Needs a connected Ray."""
    if runtime.node_groups == "ignore" or (runtime.node_groups == "auto" and not _nodes(group)):
        return None
    return {GROUP_LABEL: group}


def check_groups(runtime: RuntimeConfig, *, validating: bool) -> None:
    """Print where a run's parts will be placed. Raises ConfigError if an existing group can never hold them.

    Needs a connected Ray. Prints nothing for an embedded Ray, which is a single node.
    """
    if runtime.address == "local":
        return
    workers, gpus = runtime.min_workers, runtime.gpus_per_worker
    actors = runtime.evaluation_actors if validating and not runtime.evaluation_gpus else 0
    parts: dict[Group, tuple[str, dict[str, float]]] = {
        "training": (
            f"{workers} workers × {runtime.cpus_per_worker:g} CPU" + (f" + {gpus:g} GPU" if gpus else ""),
            {"CPU": workers * runtime.cpus_per_worker, "GPU": workers * gpus},
        ),
        "data": (
            "data tasks" + (f", {actors} evaluation actors" if actors else ""),
            {"CPU": 1 + actors * validation_cpus(runtime)},
        ),
    }
    for group, (what, needs) in parts.items():
        if group_selector(runtime, group) is None:
            say(f"placement: {what}: any node with room (none is labelled {GROUP_LABEL}={group})")
            continue
        nodes = _nodes(group)
        say(
            f"placement: {what}: {len(nodes)} nodes labelled {GROUP_LABEL}={group}"
            + ("" if nodes else ", which are yet to come")
        )
        for kind, needed in needs.items():
            available = sum(node["Resources"].get(kind, 0) for node in nodes)
            if nodes and needed > available:
                no_room(
                    runtime,
                    f"{what} need {needed:g} {kind}s, the nodes labelled {GROUP_LABEL}={group} have "
                    f"{available:g}; use fewer, set runtime.node_groups=ignore to use any node, {MORE_NODES}",
                )


def _nodes(group: Group) -> list[dict]:
    return [
        node for node in ray.nodes() if node["Alive"] and (node.get("Labels") or {}).get(GROUP_LABEL) == group
    ]
