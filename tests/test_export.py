"""An exported file gives the model's scores from raw frames without w3ray, and describes its inputs and outputs."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from w3ray.attention import ATTENTION
from w3ray.errors import InputError, RunError
from w3ray.evaluation.normalize import normalize_clips
from w3ray.export import LOGITS_TOLERANCE, METADATA, SCORES_TOLERANCE, check_clips, clip_of, export_model, files
from w3ray.export import clips as export_clips
from w3ray.models import MODELS, build_model
from w3ray.models.bundle import ModelDescription, load_model, write_model

NUM_CLASSES, NUM_FRAMES, SIZE = 3, 4, 40
FILES = {"torch": "model.pt2", "onnx": "model.onnx"}


def make_model(folder, name="tsm", attention=None, **clip):
    torch.manual_seed(0)
    options = MODELS[name].options
    if options.small:
        num_frames, size, _ = options.small_clips[0]
        clip = {"num_frames": num_frames, "size": size, **clip}
    arguments = {
        "name": name,
        "backbone": "resnet_small",
        "options": dict(options.small),
        "num_classes": NUM_CLASSES,
        "attention": None if attention is None else {"kind": attention},
    }
    network = build_model(**arguments)
    with torch.no_grad():
        for parameter in network.classifier_parameters():
            parameter.normal_()  # so that scores differ, as in a trained model
        for module in network.modules():
            # A fresh non-local block does nothing until its norm's scale differs from 0.
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.weight.uniform_(0.5, 1.5)
    description = ModelDescription(
        model=arguments,
        clip={"num_frames": NUM_FRAMES, "size": SIZE, **clip},
        classes=("links", "rechts", "наклон 踢"),
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        stage="student",
        metrics={"top1": 0.5},
    )
    write_model(folder, network, description)
    return folder


def expected_scores(folder, clips):
    """The scores of the logged model."""
    network, description = load_model(folder)
    with torch.inference_mode():
        logits_BK = network(normalize_clips(clips, mean=description.mean, std=description.std)).logits_BK
    return logits_BK, logits_BK.softmax(dim=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("stage") / "model", attention="w3")


def test_torch_is_read_without_w3ray(model, tmp_path):
    """In a process with only PyTorch, for another batch size than those of the check."""
    done = export_model(model.parent, "torch", tmp_path / "model.pt2")  # the folder of the stage
    clips = check_clips(7, clip_of(load_model(model)[1]))
    torch.save(clips, tmp_path / "clips.pt")
    script = f"""
import json, sys, torch
sys.modules["w3ray"] = None
extra = {{"{METADATA}": ""}}
program = torch.export.load("model.pt2", extra_files=extra)
logits, scores = program.module()(torch.load("clips.pt", weights_only=True))
print(json.dumps([json.loads(extra["{METADATA}"]), logits.tolist(), scores.tolist()]))
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    metadata, logits, scores = json.loads(run.stdout)
    check_result(model, clips, np.array(logits, np.float32), np.array(scores, np.float32))
    assert metadata == done.metadata
    assert metadata["classes"] == ["links", "rechts", "наклон 踢"]
    assert metadata["inputs"]["clips"]["shape"] == ["batch", NUM_FRAMES, SIZE, SIZE, 3]
    assert metadata["outputs"]["scores"]["shape"] == ["batch", NUM_CLASSES]
    assert metadata["clip"]["short_side"] == 46
    assert done.size_bytes == (tmp_path / "model.pt2").stat().st_size


@pytest.mark.slow
def test_onnx_is_read_with_its_runtime(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = export_model(model, "onnx", tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # one file, with its weights
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (clips_in,) = session.get_inputs()
    assert (clips_in.name, clips_in.type) == ("clips", "tensor(uint8)")
    assert clips_in.shape == ["batch", NUM_FRAMES, SIZE, SIZE, 3]
    outputs = [(one.name, one.shape, one.type) for one in session.get_outputs()]
    assert outputs == [(name, ["batch", NUM_CLASSES], "tensor(float)") for name in ("logits", "scores")]
    assert json.loads(session.get_modelmeta().custom_metadata_map[METADATA]) == done.metadata
    clips = check_clips(7, clip_of(load_model(model)[1]))
    check_result(model, clips, *session.run(["logits", "scores"], {"clips": clips.numpy()}))


def check_result(model, clips, logits, scores):
    expected_logits_BK, expected_scores_BK = expected_scores(model, clips)
    assert expected_scores_BK.std(dim=0).max() > 1e-3  # the clips differ enough to show a wrong graph
    np.testing.assert_allclose(logits, expected_logits_BK, atol=1e-4)
    np.testing.assert_allclose(scores, expected_scores_BK, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(FILES))
@pytest.mark.parametrize(
    ("name", "attention"),
    [
        *(("tsm", attention) for attention in (None, *ATTENTION)),
        *((name, "w3") for name in MODELS if name != "tsm" and not MODELS[name].options.side_inputs),
    ],
)
def test_every_model_and_every_attention(tmp_path, name, attention, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    folder = make_model(tmp_path / "model", name, attention)
    done = export_model(folder, kind, tmp_path / FILES[kind])
    assert done.logits_difference <= LOGITS_TOLERANCE
    assert done.scores_difference <= SCORES_TOLERANCE


def test_other_scores_are_refused(tmp_path_factory, tmp_path, monkeypatch):
    """A graph with a normalisation that is wrong by one percent, or that gives NaN."""
    model = make_model(tmp_path_factory.mktemp("plain") / "model")  # without attention, which takes long to export
    (tmp_path / "model.pt2").write_text("an older one")
    describe = export_clips.scale_and_shift
    for wrong in (1.01, float("nan")):
        monkeypatch.setattr(
            export_clips, "scale_and_shift", lambda *stds, wrong=wrong: (describe(*stds)[0] * wrong, describe(*stds)[1])
        )
        with pytest.raises(RunError, match=r"differ by up to .* no file was written"):
            export_model(model, "torch", tmp_path / "model.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_text() == "an older one"


class Branching(nn.Module):
    """Its computation depends on the input values, so no graph can represent it."""

    def forward(self, x_BTCHW):
        return x_BTCHW * 2 if x_BTCHW.sum() > 0 else x_BTCHW


def test_a_network_that_can_not_be_exported_says_why(model, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "load_model", lambda folder: (Branching(), load_model(folder)[1]))
    with pytest.raises(RunError, match="this network cannot be exported to torch: ") as caught:
        export_model(model, "torch", tmp_path / "model.pt2")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_without_the_packages_one_line_says_what_to_install(model, tmp_path, monkeypatch):
    found = files.importlib.util.find_spec
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None if "onnx" in name else found(name))
    with pytest.raises(InputError, match=r"onnx, onnxscript, onnxruntime not installed; pip install 'w3ray\[onnx\]'"):
        export_model(model, "onnx", tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "reads", "clip"),
    [
        ("i3d_gcn", "boxes", {"boxes_per_frame": 2}),
        ("lfb", "bank", {"bank_window": 5, "bank_channels": 12, "bank_every_s": 1.0}),
    ],
)
def test_a_network_that_reads_more_than_clips_is_refused(tmp_path, name, reads, clip):
    folder = make_model(tmp_path / "model", name, **clip)
    with pytest.raises(InputError, match=rf"{name}: cannot be exported: it reads {reads} with each clip") as caught:
        export_model(folder, "torch", tmp_path / "model.pt2")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_errors(model, tmp_path):
    with pytest.raises(InputError, match="unknown format 'tflite'; known: torch, onnx"):
        export_model(model, "tflite", tmp_path / "a")
    with pytest.raises(InputError, match="cannot be written"):
        export_model(model, "torch", tmp_path / "none" / "model.pt2")
    with pytest.raises(InputError, match="no model here; name the folder of a stage"):
        export_model(tmp_path, "torch", tmp_path / "model.pt2")
    odd = make_model(tmp_path / "odd", fps=3)
    with pytest.raises(InputError, match=r"clip: .*fps"):
        export_model(odd, "torch", tmp_path / "model.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["odd"]


def streamed(folder, attention=None):
    """An online TSM on disk."""
    torch.manual_seed(0)
    arguments = {
        "name": "tsm", "backbone": "resnet_small", "options": {"shift_mode": "online"}, "num_classes": NUM_CLASSES,
        "attention": attention,
    }  # fmt: skip
    network = build_model(**arguments)
    nn.init.normal_(network.classifier.weight)
    description = ModelDescription(
        model=arguments, clip={"num_frames": NUM_FRAMES, "size": SIZE}, classes=("a", "b", "c"), mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )  # fmt: skip
    write_model(folder, network, description)
    return folder


class TestStream:
    def check(self, folder, done, run):
        """Three streams of more frames than the check has, with the state carried from call to call."""
        description = load_model(folder)[1]
        clips = torch.cat([check_clips(3, clip_of(description))] * 2, dim=1)
        shapes = [one["shape"][1:] for name, one in done.metadata["inputs"].items() if name.startswith("state")]
        state, frames = [np.zeros((3, *shape), np.float32) for shape in shapes], []
        for frame in clips.unbind(1):
            logits, scores, *state = run(frame.numpy(), *state)
            np.testing.assert_allclose(scores, torch.from_numpy(logits).softmax(1), atol=1e-6)
            frames.append(logits)
        np.testing.assert_allclose(np.mean(frames, axis=0), expected_scores(folder, clips)[0], atol=1e-4)
        assert done.metadata["stream"]
        assert done.metadata["inputs"]["frame"]["shape"] == ["batch", SIZE, SIZE, 3]

    def test_torch(self, tmp_path):
        folder = streamed(tmp_path / "model")
        done = export_model(folder, "torch", tmp_path / "model.pt2", stream=True)
        network = torch.export.load(tmp_path / "model.pt2").module()

        def run(*inputs):
            with torch.inference_mode():
                return [one.numpy() for one in network(*map(torch.from_numpy, inputs))]

        self.check(folder, done, run)

    @pytest.mark.slow
    @pytest.mark.parametrize("attention", [None, {"kind": "cbam"}, {"kind": "w3", "causal": True, "start": "plain"}])
    def test_onnx(self, tmp_path, attention):
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        folder = streamed(tmp_path / "model", attention)
        done = export_model(folder, "onnx", tmp_path / "model.onnx", stream=True)
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
        assert names == list(done.metadata["inputs"])
        self.check(folder, done, lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True))))

    def test_a_state_that_is_not_passed_on_is_noticed(self, tmp_path, monkeypatch):
        folder = streamed(tmp_path / "model")
        monkeypatch.setattr(
            files, "FORMATS", {"torch": (files.FORMATS["torch"][0], self.forgetful(files.FORMATS["torch"][1]))}
        )
        with pytest.raises(RunError, match="the exported network gives other scores"):
            export_model(folder, "torch", tmp_path / "model.pt2", stream=True)

    @staticmethod
    def forgetful(open_run):
        def opened(path, recogniser):
            run = open_run(path, recogniser)
            return lambda frame, *state: run(frame, *map(torch.zeros_like, state))

        return opened

    def test_a_network_that_looks_ahead_is_refused(self, model, tmp_path):
        with pytest.raises(InputError, match=r"reads later frames; train with .*; or export it without --stream$"):
            export_model(model, "torch", tmp_path / "model.pt2", stream=True)
