# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a folder of clips to a film of attention
#
# This notebook makes a small data set, trains a teacher and its student with What-Where-When attention, looks at the
# result, and draws what the student looks at. It takes about five minutes on two CPU cores.
#
# `quickstart.py` beside it is the same as a script. After a change of one of them,
# `jupytext --sync examples/quickstart.ipynb` brings the other one up to date.

# %%
from pathlib import Path

import w3ray
from w3ray.data.importers.folder import import_folder
from w3ray.data.manifest import write_manifest
from w3ray.data.synthetic import write_motion_dataset

# %% [markdown]
# ## A folder of clips
#
# The clips of your own camera belong into `clips/<split>/<class>/<clip>.mp4`. Here they are generated: eight classes of
# motion. The manifest is a table with a row for each clip.

# %%
write_motion_dataset(Path("clips"), clips=128, val_clips=40, test_clips=40, size=56)
manifest = import_folder("clips", note=print)
write_manifest(manifest, "clips.parquet")
print(manifest.splits(), manifest.classes)

# %% [markdown]
# ## Train teacher and student
#
# `my-clips` is a shipped recipe. The second argument changes its values. Run the cell again and nothing is trained:
# finished stages are reused.

# %%
recipe = w3ray.load_recipe("my-clips", ["data.manifest=clips.parquet", "data.size=40", "train.epochs=10"])
result = w3ray.run(recipe)
for stage in result.stages:
    print(f"{stage.name:10} {stage.state:8} top-1 {stage.metrics['top1']:.1%}")

# %% [markdown]
# ## Use the model

# %%
student = result.stages[-1]
video = next(Path("clips/test/moves-left").glob("*.mp4"))
(prediction,) = w3ray.predict(student.model, video, top=3)
for name, score in prediction.top:
    print(f"{name:14} {score:.1%}")

# %% [markdown]
# ## What does it look at?
#
# `explain` draws a strip of frames, the attention of each stage of the network, and a film.

# %%
(explained,) = w3ray.explain(student.model, video, out="explained").videos
print(explained.film)

# %%
try:
    from IPython.display import Video, display
except ImportError:  # as a script
    pass
else:
    display(Video(explained.film, embed=True))
