"""What does a logged model do when somebody loads it with `mlflow.pyfunc.load_model` and gives it a video path?

MLflow copies this file into the logged model and runs it there ("models from code"): nothing is pickled. It needs
w3ray installed. It samples, crops and normalises as the evaluation did, so it gives the same scores.
"""

from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

CLIPS_AT_ONCE = 8


class VideoModel(PythonModel):
    """Video paths in, class scores out; one clip a video."""

    def load_context(self, context: PythonModelContext) -> None:
        import torch

        from w3ray.data.clip import ClipSpec
        from w3ray.models.bundle import load_model

        network, self.description = load_model(context.artifacts["model"])
        self.spec = ClipSpec(**self.description.clip)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Recognise the action of each video.

        Args:
            context: unused; MLflow's.
            model_input: one path, a list or an array of them, or a DataFrame with them in its first column.
            params: unused; MLflow's.

        Returns:
            DataFrame with a row a video: `scores` (softmax in class order), `label` (name of the best), `score` (its).

        Raises:
            DecodeError: a video can not be read.
        """
        videos = _paths(model_input)
        rows = []
        for start in range(0, len(videos), CLIPS_AT_ONCE):
            rows += self._recognise(videos[start : start + CLIPS_AT_ONCE])
        return pd.DataFrame(rows, columns=["scores", "label", "score"])

    def _recognise(self, videos: list[str]) -> list[tuple[list[float], str, float]]:
        import numpy as np
        import torch

        from w3ray.data.clip import load_clip
        from w3ray.evaluation.normalize import normalize_clips

        clips = [load_clip(video, label=0, spec=self.spec, rng=None)[0] for video in videos]
        clips_u8_BTHWC = torch.from_numpy(np.stack(clips)).to(self.device)
        with torch.inference_mode():
            x_BTCHW = normalize_clips(clips_u8_BTHWC, mean=self.description.mean, std=self.description.std)
            scores_BK = self.network(x_BTCHW).logits_BK.float().softmax(dim=1).cpu()
        best_B = scores_BK.argmax(dim=1).tolist()
        return [
            (scores_K.tolist(), self.description.classes[best], float(scores_K[best]))
            for scores_K, best in zip(scores_BK, best_B, strict=True)
        ]


def _paths(model_input: Any) -> list[str]:
    if isinstance(model_input, pd.DataFrame):
        return [str(path) for path in model_input.iloc[:, 0]]
    if isinstance(model_input, str):
        return [model_input]
    return [str(path) for path in model_input]


mlflow.models.set_model(VideoModel())
