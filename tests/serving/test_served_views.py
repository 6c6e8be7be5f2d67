"""A served model scores the views of its protocol, as `w3ray predict` does."""

from pathlib import Path

import pytest
from served import asked, free_port, path_body, write_small_model
from videos import write_video

from w3ray import predict
from w3ray.serving.settings import Settings
from w3ray.serving.start import served_model


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_scores_of_predict_with_the_same_protocol(tmp_path: Path) -> None:
    from ray import serve

    video = str(write_video(tmp_path / "videos" / "clip.mp4", 60))
    model = write_small_model(tmp_path / "model")
    settings = Settings(
        port=free_port(), roots=(str(tmp_path / "videos"),), top=4, protocol="3crop-2clip", average="logits"
    )
    try:
        with served_model("small", model, settings, is_own=True):
            status, document = asked(f"{settings.url}/predict", *path_body(Path(video)))
            about = asked(f"{settings.url}/model")[1]
    finally:
        serve.shutdown()  # the tests' own Ray goes on
    (wanted,) = predict(model, [video], top=4, protocol="3crop-2clip", average="logits")
    (plain,) = predict(model, [video], top=4)
    assert status == 200, document
    found = {one["class"]: one["score"] for one in document["top"]}
    assert found == pytest.approx({one["class"]: one["score"] for one in wanted.document()["top"]}, rel=1e-5)
    assert found != pytest.approx({one["class"]: one["score"] for one in plain.document()["top"]}, rel=1e-5)
    assert (about["protocol"], about["average"]) == ("3crop-2clip", "logits")
