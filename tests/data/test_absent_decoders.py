"""A decoder that is not there is refused in one line, before anything starts, wherever a recipe or a model names it."""

import re
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
from decoders_here import imported_torchcodec
from packaging.requirements import Requirement

from w3ray.cli import main
from w3ray.data.clip import ClipSpec
from w3ray.data.decoders import open_video, require_decoder, torchcodec_cuda
from w3ray.data.decoders.decord import load_decord
from w3ray.data.manifest import read_manifest
from w3ray.errors import InputError
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, write_model
from w3ray.tracking.logged_models import _decoder_package
from w3ray.trained import load_model

NO_DECORD = (
    "decoder decord is not installed (it has packages for Linux and Windows on x86-64 only); use the decoder pyav, "
    "which reads all files and gives the same frames"
)
NO_GPU = "decoder torchcodec_cuda is only for w3ray data show, w3ray explain and Python"
OF_MODEL = "model.json: clip.decoder: "


@pytest.fixture(autouse=True)
def _without_decord(monkeypatch):
    """As on a platform without its package."""
    monkeypatch.setitem(sys.modules, "decord", None)
    load_decord.cache_clear()
    yield
    load_decord.cache_clear()


def a_model(folder: Path, manifest: Path, decoder: str) -> Path:
    arguments = {"name": "tsm", "backbone": "resnet_small", "num_classes": 8, "attention": {"kind": "w3"}}
    description = ModelDescription(
        model=arguments,
        clip=asdict(ClipSpec(num_frames=2, size=16, decoder=decoder)),
        classes=read_manifest(manifest).classes,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    write_model(folder, build_model(**arguments), description)
    return folder


@pytest.fixture(scope="module")
def models(motion_manifest, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: a_model(root / name, motion_manifest, name) for name in ("pyav", "decord", "torchcodec_cuda")}


COMMANDS = [
    "run quickstart --dry-run --set data.decoder={decoder}",
    "run quickstart --set data.decoder={decoder}",
    "tune smoke --pipeline quickstart --set data.decoder={decoder}",
    "data check {manifest} --decoder {decoder}",
]
WITH_MODEL = [
    "predict {model} {video}",
    "predict {model} --manifest {manifest} --split train",
    "evaluate {model} --manifest {manifest}",
    "data bank {model} {manifest} bank",
]
IN_PROCESS = [
    "data show {manifest} --out sheet.png --set data.decoder={decoder}",
    "explain {model} {video}",
]


@pytest.mark.parametrize(
    ("command", "decoder", "message"),
    [(command, "decord", NO_DECORD) for command in COMMANDS + IN_PROCESS[:1]]
    + [(command, "decord", OF_MODEL + NO_DECORD) for command in WITH_MODEL + IN_PROCESS[1:]]
    + [(command, "torchcodec_cuda", NO_GPU) for command in COMMANDS]
    + [(command, "torchcodec_cuda", OF_MODEL + NO_GPU) for command in WITH_MODEL],
)
def test_commands(command, decoder, message, models, motion_manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    video = next(motion_manifest.parent.rglob("*.mp4"))
    words = command.format(decoder=decoder, manifest=motion_manifest, model=models[decoder], video=video)
    assert main(words.split()) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def test_python(models, motion_manifest):
    """An absent library is no unreadable video: each video would be masked out."""
    for refused in (lambda: require_decoder("decord"), lambda: open_video("none.mp4", "decord")):
        with pytest.raises(InputError, match=re.escape(NO_DECORD)):
            refused()
    video = next(motion_manifest.parent.rglob("*.mp4"))
    with pytest.raises(InputError, match=re.escape(NO_DECORD)):
        load_model(models["decord"]).read(str(video))
    assert load_model(models["pyav"]).read(str(video)).shape == (2, 16, 16, 3)


def test_a_logged_model_asks_for_the_package_of_its_own_decoder(models, monkeypatch):
    """Else nobody without decord could log a model, or install what a model asks for."""
    monkeypatch.setattr("w3ray.tracking.logged_models.version", {"decord": "0.6.0", "torchcodec": "0.17.0"}.get)
    found = {name: _decoder_package(folder) for name, folder in models.items()}
    assert found == {"pyav": [], "decord": ["decord==0.6.0"], "torchcodec_cuda": ["torchcodec==0.17.0"]}


def test_the_package_asks_for_decord_only_where_it_has_wheels():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (decord,) = [one for one in project["dependencies"] if one.startswith("decord")]
    marker = Requirement(decord).marker
    wanted = {("linux", "x86_64"): True, ("linux", "aarch64"): False, ("darwin", "arm64"): False}
    for (system, machine), there in wanted.items():
        assert marker.evaluate({"sys_platform": system, "platform_machine": machine}) == there


class TestOnAGpu:
    """Why torchcodec cannot decode on a GPU, in the order in which it is found out."""

    @pytest.fixture(autouse=True)
    def _torchcodec_is_there(self, monkeypatch):
        imported_torchcodec()
        monkeypatch.setattr(torchcodec_cuda, "load_torchcodec", lambda: "decoders")

    def refused(self, message: str) -> None:
        with pytest.raises(InputError, match=rf"^decoder torchcodec_cuda cannot be used here: {message}[^\n]*$"):
            require_decoder("torchcodec_cuda", in_process=True)

    def test_a_build_for_cpus(self, monkeypatch):
        torchcodec = imported_torchcodec()
        monkeypatch.setattr(torchcodec, "__version__", "0.17.0+cpu")
        self.refused(r"torchcodec 0\.17\.0\+cpu is for CPUs")

    def test_no_gpu(self, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        self.refused("it needs an NVIDIA GPU, and PyTorch sees none; use the decoder pyav or torchcodec")

    def test_no_video_library_of_the_driver(self, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr(torchcodec_cuda, "_DRIVER_LIBRARY", "libnvcuvid-that-is-not-there.so.1")
        self.refused("NVIDIA's driver has no libnvcuvid-that-is-not-there.so.1")

    def test_no_torchcodec(self, monkeypatch):
        monkeypatch.undo()
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
        with pytest.raises(InputError, match=r"torchcodec is not installed: pip install 'w3ray\[torchcodec\]'"):
            require_decoder("torchcodec_cuda", in_process=True)
