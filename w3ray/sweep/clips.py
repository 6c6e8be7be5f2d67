"""The clips that all trials of a sweep share: drawn once before the first trial, removed after the last one."""

from w3ray.data.shared_clips import SharedClips
from w3ray.pipeline.prepare import synthetic_root
from w3ray.recipe import Recipe
from w3ray.sweep.space import Space

_FORGET_TIMEOUT_S = 10.0


def draw_clips(space: Space, usual: Recipe) -> None:
    """Draw the generated clips that all trials need, once, before the first trial.

    Args:
        usual: the recipe with the settings that all trials have (`usual_recipe`).
    """
    synthetic = usual.data.synthetic
    if synthetic is None or any(name.startswith("data.synthetic") for name in space.parameters):
        return
    root = synthetic_root(usual)
    if not (root / "manifest.parquet").is_file():
        from w3ray.pipeline.drawing import Drawing

        Drawing(root, synthetic.model_dump()).wait()


def forget_clips(shared: SharedClips, *, own_cluster: bool) -> None:
    """Remove the decoded clips that trials shared, on every node. The next sweep on a node removes any leftovers.

    Args:
        own_cluster: the cluster was started for this sweep, so this node is its only one.
    """
    shared.remove()
    import ray

    if own_cluster or not ray.is_initialized():  # no other nodes; without `is_initialized` Ray would look for a cluster
        return
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    me = ray.get_runtime_context().get_node_id()
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != me]
    remove = ray.remote(num_cpus=0, max_retries=0)(SharedClips.remove)
    there = [
        remove.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(shared)
        for node in others
    ]
    if there:
        ray.wait(there, num_returns=len(there), timeout=_FORGET_TIMEOUT_S)
