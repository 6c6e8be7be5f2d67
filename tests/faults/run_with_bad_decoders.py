"""Runs a recipe (a JSON file) on a local Ray with `bad_decoders`, and writes the messages to the user to TOLD.

run_with_bad_decoders.py RECIPE TOLD [in-process]         in-process: as in a trial of a sweep
"""

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["PYTHONPATH"] = f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    import ray

    from w3ray.cluster.connect import node_resources, quiet
    from w3ray.events import Warned
    from w3ray.pipeline import run
    from w3ray.pipeline.plan import plan_recipe
    from w3ray.pipeline.sweep_part import SweepPart
    from w3ray.recipe import Recipe

    quiet()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": "bad_decoders.install"},
    )
    told: list[str] = []
    recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_text())
    part = None
    if sys.argv[3:] == ["in-process"]:
        plan = plan_recipe(recipe, node_resources())
        part = SweepPart(name="trial", identity="trial", plan=plan, in_process=True)
    run(recipe, on_event=lambda event: told.append(event.message) if isinstance(event, Warned) else None, part_of=part)
    Path(sys.argv[2]).write_text(json.dumps(told))
