"""What does a logged model do when somebody loads it with `mlflow.pyfunc.load_model` and gives it a video path?

MLflow copies this file into the logged model and runs it there ("models from code"): nothing is pickled. w3ray must be
installed. Videos are processed one by one, as in `w3ray predict`, so the scores are the same.
"""

from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

if TYPE_CHECKING:
    from w3ray.evaluation.scorer import Average, Scorer

COLUMNS = ["scores", "label", "score", "top", "reason"]


class VideoModel(PythonModel):
    """Video paths in, class scores out."""

    def load_context(self, context: PythonModelContext) -> None:
        import torch

        from w3ray.data.clip import ClipSpec
        from w3ray.models.bundle import load_model

        self.network, self.description = load_model(context.artifacts["model"])
        self.spec = ClipSpec(**self.description.clip)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Recognise the action of each video.

        Args:
            context: not used; MLflow passes it.
            model_input: one path, a list or array of paths, or a DataFrame with paths in its first column.
            params: `protocol`, `average` and `top`, as in `w3ray predict`.

        Returns:
            DataFrame with one row per video, in the order of the paths: `scores` (in class order), `label` (name of the
            best class or combination of classes), `score` (the score of `label`), `top` (the best classes with their
            scores), and `reason`: why the video could not be read (then it has no scores and no label), else None. For
            a multi-label model, `label` is still the best class. The classes of a video are those with a score in
            `scores` of at least the threshold that you choose.

        Raises:
            InputError: an unknown protocol or average, or the model reads more than videos: this call has no place
                for it.
        """
        from w3ray.data.views import parse_protocol
        from w3ray.errors import InputError
        from w3ray.evaluation.scorer import Scorer

        if self.spec.side_inputs:
            raise InputError(
                f"this model needs {', '.join(self.spec.side_inputs)} with its videos; use w3ray predict "
                f"--{' --'.join(self.spec.side_inputs)}"
            )
        chosen = {"protocol": "1clip-center", "average": "scores", "top": 5, **(params or {})}
        protocol, average = parse_protocol(str(chosen["protocol"])), _average(chosen["average"])
        top = int(chosen["top"])
        if top < 1:
            raise InputError(f"top must be at least 1, not {top}")
        scorer = Scorer(
            self.network, self.description, mirrored_V=protocol.mirrored_V, average=average, device=self.device
        )
        rows = [self._recognise(video, scorer, protocol, top) for video in _paths(model_input)]
        return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=object) for name in COLUMNS})

    def _recognise(self, video: str, scorer: "Scorer", protocol: Any, top: int) -> dict[str, Any]:
        from w3ray.data.decoders import DecodeError
        from w3ray.data.views import load_views
        from w3ray.evaluation.best import best_classes

        try:
            views = load_views(video, spec=self.spec, protocol=protocol)
        except DecodeError as error:
            return {"scores": [], "label": None, "score": None, "top": [], "reason": error.reason}
        scores_K = scorer(views[None])[0]
        best = best_classes(scores_K, self.description.heads, top)
        named = [{"class": name, "score": score} for name, score in best.top]
        return {
            "scores": [float(score) for score in scores_K],
            "label": named[0]["class"],
            "score": named[0]["score"],
            "top": named,
            "reason": None,
        }


def _average(name: str) -> "Average":
    from w3ray.errors import InputError

    if name == "scores":
        return "scores"
    if name == "logits":
        return "logits"
    raise InputError(f"average must be scores or logits, not {name!r}")


def _paths(model_input: Any) -> list[str]:
    if isinstance(model_input, pd.DataFrame):
        return [str(path) for path in model_input.iloc[:, 0]]
    if isinstance(model_input, str):
        return [model_input]
    return [str(path) for path in model_input]


mlflow.models.set_model(VideoModel())
