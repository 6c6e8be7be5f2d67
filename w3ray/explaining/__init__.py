"""What does a model look at? Its masks over the frames of a clip, as numbers and as pictures.

`explain_clip` answers this for one clip and any model of w3ray, `strip_figure` draws the answer, `explain_videos` does
both for files. Nothing here uses Ray, MLflow or a recipe.
"""

from typing import TYPE_CHECKING

from w3ray._registry import lazy_attributes

if TYPE_CHECKING:
    from w3ray.explaining.explanation import Explanation, explain_clip
    from w3ray.explaining.pictures import stages_figure, strip_figure
    from w3ray.explaining.videos import ExplainedVideo, ExplainedVideos, ModelGates, explain_videos

__all__ = [
    "ExplainedVideo",
    "ExplainedVideos",
    "Explanation",
    "ModelGates",
    "explain_clip",
    "explain_videos",
    "stages_figure",
    "strip_figure",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "ExplainedVideo": "w3ray.explaining.videos",
        "ExplainedVideos": "w3ray.explaining.videos",
        "ModelGates": "w3ray.explaining.videos",
        "Explanation": "w3ray.explaining.explanation",
        "explain_clip": "w3ray.explaining.explanation",
        "explain_videos": "w3ray.explaining.videos",
        "stages_figure": "w3ray.explaining.pictures",
        "strip_figure": "w3ray.explaining.pictures",
    },
)
