"""A decoder whose process ends costs one more attempt, and another decoder takes its place."""

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest
from videos import write_video

from w3ray.data.clip import ClipSpec
from w3ray.data.views import parse_protocol
from w3ray.plugins import shipment
from w3ray.serving.decoders import CRASHED, DecodedVideo, DecoderActor, Decoders
from w3ray.serving.requests import AskedVideo

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

SPEC = ClipSpec(num_frames=4, size=48, short_side=48)


@pytest.fixture
def decoders(tmp_path: Path) -> Decoders:
    """One decoder. A video ends its process as often as a file beside it has lines; `start` does so at its start."""
    import ray

    def one_less(file: Path) -> bool:
        if not (left := file.read_text().split() if file.exists() else []):
            return False
        file.write_text("\n".join(left[1:]))
        return True

    class Crashing(DecoderActor):
        def ready(self) -> None:
            if one_less(tmp_path / "start.ends"):
                os._exit(1)

        def read(self, asked: AskedVideo) -> DecodedVideo:
            if one_less(Path(f"{asked.uri}.ends")):
                os._exit(1)
            return super().read(asked)

    actor = ray.remote(num_cpus=0)(Crashing)
    return Decoders(1, lambda: actor.remote(SPEC, parse_protocol("1clip-center"), shipment()))


def ends(file: Path, times: int) -> None:
    Path(f"{file}.ends").write_text("\n".join("x" * times))


def test_crashes(decoders: Decoders, tmp_path: Path) -> None:
    bad, once, good = (write_video(tmp_path / f"{name}.mp4", 8) for name in ("bad", "once", "good"))
    ends(bad, 2)
    ends(once, 1)

    async def read() -> list[DecodedVideo]:
        await decoders.start()
        ends(tmp_path / "start", 1)
        found = []
        for path in (bad, once, good):
            asked = AskedVideo(uri=str(path), name=path.name, start_s=None, end_s=None, roots=None)
            found.append(await decoders.read(asked, deadline=asyncio.get_running_loop().time() + 300))
        return found

    of_bad, of_once, of_good = asyncio.run(read())
    assert (of_bad.pixels_VTSSC, of_bad.reason) == (None, CRASHED)
    assert Path(f"{tmp_path}/start.ends").read_text() == "", "one also ended as it started"
    for one in (of_once, of_good):
        assert one.reason is None
        assert one.pixels_VTSSC is not None
        assert one.pixels_VTSSC.shape == (1, 4, 48, 48, 3)
    np.testing.assert_array_equal(of_once.pixels_VTSSC, of_good.pixels_VTSSC)
