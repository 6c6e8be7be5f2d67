"""The compiler, the order of the weights, TF32 and the transfer change how things are computed, and nothing else."""

import copy
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from training_parts import batch, buffers, gradients, run_microbatches, small_model, training_step

from w3ray.attention.meter import GateMeter
from w3ray.models import build_model
from w3ray.models.shift import TemporalShift
from w3ray.training import optimizer, transfer
from w3ray.training.checkpoint import load_checkpoint, save_checkpoint, take_snapshot
from w3ray.training.on_gpu import compiled, is_compiled, tf32, weights_channels_last
from w3ray.training.transfer import Transfer

LOSS_WEIGHTS = {"cross_entropy": 1.0, "mfr": 0.3}
WHOLE: list[list[int | None]] = [[0, 1, 2]]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch._dynamo.reset()


def clips_of(model: nn.Module, num_clips: int = 3) -> Tensor:
    return training_step(model).prepare(batch(num_clips)[0])


class TestCompiled:
    @pytest.mark.parametrize("attention", [None, "w3", "cbam", "nonlocal"])
    def test_no_graph_breaks(self, attention: str | None) -> None:
        """With W3 there is AFR, too."""
        config = None if attention is None else {"kind": attention}
        model = build_model("tsm", backbone="resnet_small", num_classes=4, attention=config).train()
        found = torch._dynamo.explain(model)(clips_of(model))
        assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons

    @pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
    def test_the_same_losses_gradients_and_statistics(self, backend: str) -> None:
        found = []
        for wrap in (lambda model: model, lambda model: compiled(model, backend)):
            student, teacher = (small_model(seed, dtype=torch.float32) for seed in (1, 2))
            # Inductor takes half a minute for one network.
            options = {"teacher": wrap(teacher), "loss_weights": LOSS_WEIGHTS} if backend == "aot_eager" else {}
            step = training_step(wrap(student), **options)
            run_microbatches(step, *batch(3), WHOLE, normalizer=3)
            found.append((gradients(student), buffers(student), step.update(0.01).loss_sums))
        for plain, other in zip(*found, strict=True):
            assert plain.keys() == other.keys()
            for name, value in plain.items():
                assert value.isfinite().all(), name
                torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")

    @pytest.mark.parametrize("mode", ["bidirectional", "online"])
    def test_a_shift_after_a_convolution(self, mode: Any) -> None:
        """torch 2.15 compiled the writes of the uncompiled form to code that gave NaN with 16 channels, not with 8."""
        torch.manual_seed(0)
        layers = nn.ModuleList([nn.Conv2d(4, 16, 3, padding=1), TemporalShift(8, mode), nn.Conv2d(16, 4, 3, padding=1)])

        def run(x_NCHW: Tensor) -> Tensor:
            return layers[2](layers[1](layers[0](x_NCHW).relu(), 2))

        x, y = (torch.ones(4, 4, 8, 8).cumsum(0).requires_grad_() for _ in range(2))
        expected, found = run(x), torch.compile(run, dynamic=False)(y)
        torch.testing.assert_close(found, expected)
        expected.square().sum().backward()
        found.square().sum().backward()
        torch.testing.assert_close(y.grad, x.grad)

    def test_one_compilation_and_only_of_whole_microbatches(self) -> None:
        """The tail of an epoch has other shapes. Each would take a minute to compile, for one step an epoch."""
        graphs = []

        def count(graph: Any, inputs: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        model = small_model(1)
        step = training_step(compiled(model, count))
        for seed, rows in enumerate(([0, 1, 2], [0, None, None], [3, 4, None], [4, 3, 2])):
            run_microbatches(step, *batch(5), [rows], normalizer=3, seed=seed)
            step.update(0.01)
            # Validations run in between, on the plain model, with hooks.
            meter = GateMeter(model)
            with torch.no_grad(), meter.watching():
                model.eval()(clips_of(model))
            assert (meter.sums()[:, :, 0] > 0).all()
        assert len(graphs) == 1

    def test_is_known_inside_ddp(self, tmp_path: Path) -> None:
        """So the tail of an epoch is not compiled there, either."""
        model = small_model(1)
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
        try:
            wrapped = [DistributedDataParallel(one) for one in (model, compiled(model, "eager"))]
        finally:
            dist.destroy_process_group()
        assert [is_compiled(one) for one in (model, *wrapped)] == [False, False, True]

    def test_names_stay(self, tmp_path: Path) -> None:
        model = small_model(1)
        names = list(model.state_dict())
        step = training_step(compiled(model, "eager"))
        assert list(model.state_dict()) == names
        assert list(take_snapshot(step.model, meta={}).model) == names


class TestChannelsLast:
    @pytest.mark.parametrize(("name", "axes"), [("tsm", 4), ("i3d_r18", 5)])
    def test_order_and_values(self, name: str, axes: int) -> None:
        torch.manual_seed(0)
        backbone = {"backbone": "resnet_small"} if name == "tsm" else {}
        model = build_model(name, num_classes=4, attention={"kind": "w3"}, dropout=0.0, **backbone).eval()
        x_BTCHW = torch.randn(1, 8, 3, 32, 32)
        with torch.no_grad():
            expected = model(x_BTCHW).logits_BK
            before = copy.deepcopy(model.state_dict())
            parameters = [*model.parameters()]
            weights_channels_last(model)
            found = model(x_BTCHW).logits_BK
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key]), key
        order = {4: torch.channels_last, 5: torch.channels_last_3d}[axes]
        large = [one for one in parameters if one.dim() == axes and min(one.shape[:3]) > 1]
        assert len(large) > 5
        assert all(one.is_contiguous(memory_format=order) for one in large)

    @pytest.mark.parametrize("kind", ["sgd", "adamw"])
    @pytest.mark.parametrize("there", [False, True])
    def test_a_checkpoint_fits_both_orders(self, tmp_path: Path, kind: str, there: bool) -> None:
        def made(seed: int, last: bool) -> Any:
            model = small_model(seed, dtype=torch.float32)
            return training_step(weights_channels_last(model) if last else model, kind=kind)

        saved, other = made(1, there), made(2, not there)
        for step in (saved, other):
            run_microbatches(step, *batch(3), WHOLE, normalizer=3)
            step.update(0.01)
        save_checkpoint(tmp_path / "it", model=saved.model, optimizer=saved.optimizer, meta={})
        load_checkpoint(tmp_path / "it", model=other.model, optimizer=other.optimizer)
        for name, value in saved.model.state_dict().items():
            assert torch.equal(other.model.state_dict()[name], value), name
        states = 0
        for mine, its in zip(saved.model.parameters(), other.model.parameters(), strict=True):
            for name, value in saved.optimizer.state[mine].items():
                loaded = other.optimizer.state[its][name]
                assert torch.equal(loaded, value), name
                if value.dim() == 4:
                    states += 1
                    assert loaded.stride() == its.stride(), "a fused update needs the order of the parameter"
        assert states > 5


class TestTF32:
    def flags(self) -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    @pytest.mark.parametrize("allowed", [False, True])
    def test_is_set_and_set_back(self, allowed: bool) -> None:
        before = self.flags()
        found = []

        def fail() -> None:
            with tf32(allowed):
                found.append(self.flags())
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert found == [(allowed, allowed)]
        assert self.flags() == before == (False, True)

    def test_is_left_to_torch_if_not_asked(self) -> None:
        with tf32(None):
            assert self.flags() == (False, True)


@pytest.mark.parametrize("kind", optimizer.OPTIMIZERS)
@pytest.mark.parametrize(("on_gpu", "fused"), [([True, True], True), ([False, False], None), ([True, False], None)])
def test_updates_are_fused_on_gpus_only(
    monkeypatch: pytest.MonkeyPatch, kind: Any, on_gpu: list[bool], fused: bool | None
) -> None:
    monkeypatch.setattr(optimizer, "_without_compiler", lambda kind: lambda groups, **options: options["fused"])
    groups: Any = [{"params": [SimpleNamespace(is_cuda=one)]} for one in on_gpu]
    assert optimizer.build_optimizer(kind, groups) is fused


class TestTransfer:
    def test_on_a_cpu_nothing_is_copied(self) -> None:
        tensors = [torch.ones(3), torch.zeros(2)]
        sent = Transfer(torch.device("cpu"))(tensors)
        assert all(one is other for one, other in zip(sent, tensors, strict=True))

    def test_memory_is_written_only_when_the_gpu_has_read_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With objects in place of the GPU's. A copy to the "device" is none, so each tensor is the pinned memory."""
        log: list[str] = []

        class Event:
            def __init__(self) -> None:
                self.name = f"event {len(events)}"
                events.append(self)

            def record(self, stream: Any) -> None:
                log.append(f"{stream} passes {self.name}")

            def synchronize(self) -> None:
                log.append(f"wait for {self.name}")

        events: list[Event] = []
        user = SimpleNamespace(wait_stream=lambda stream: log.append(f"user waits for {stream}"))
        cuda = SimpleNamespace(
            Event=Event,
            Stream=lambda device: "side",
            stream=lambda stream: nullcontext(),
            current_stream=lambda device: user,
        )
        pinned: list[bool] = []

        def empty(count: int, *, dtype: torch.dtype, pin_memory: bool) -> Tensor:
            pinned.append(pin_memory)
            return torch.zeros(count, dtype=dtype)

        monkeypatch.setattr(transfer, "torch", SimpleNamespace(cuda=cuda, empty=empty))
        kept: list[Any] = []
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: kept.append(stream))
        send = Transfer(SimpleNamespace(type="cuda"))  # type: ignore[arg-type]
        send._device = torch.device("cpu")
        given = [[torch.full((2, 2), float(number)), torch.tensor([number])] for number in range(4)]
        sent = []
        for number, tensors in enumerate(given):
            sent.append(send(tensors))
            assert log == [f"wait for event {number % 2}", f"side passes event {number % 2}", "user waits for side"]
            log.clear()
            for one, its in zip(sent[-1], tensors, strict=True):
                assert torch.equal(one, its)
                assert one is not its
            if number:  # the GPU may still compute this one
                assert torch.equal(sent[-2][0], given[number - 1][0])
        assert pinned == [True] * 4, "two buffers of two tensors"
        assert kept == [user] * 8
        smaller = send([torch.full((1, 3), 9.0), torch.tensor([8])])
        assert torch.equal(smaller[0], torch.full((1, 3), 9.0))
        assert len(pinned) == 4
        send([torch.zeros(9), torch.tensor([8])])
        assert len(pinned) == 5, "a larger one needs new memory"

    @needs_gpu
    def test_on_a_gpu(self) -> None:
        send = Transfer(torch.device("cuda"))
        heavy = torch.rand(2048, 2048, device="cuda")
        sums = []
        for number in range(20):
            clips, labels = send([torch.full((8, 1 << 20), number, dtype=torch.uint8), torch.tensor([number])])
            for _ in range(10):
                heavy = heavy @ heavy / 2048
            sums.append((clips.to(torch.int64).sum() + labels.sum(), number * (8 << 20) + number))
            del clips, labels
        for found, expected in sums:
            assert int(found) == expected


@needs_gpu
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_everything_together_on_a_gpu(tmp_path: Path, kind: str, precision: str) -> None:
    def made(seed: int) -> Any:
        model = weights_channels_last(small_model(seed, dtype=torch.float32).cuda())
        return model, training_step(compiled(model), kind=kind, precision=precision)

    def trained(step: Any, seed: int) -> None:
        clips, labels = Transfer(step.device)([*batch(3)])
        run_microbatches(step, clips.cpu(), labels.cpu(), WHOLE, normalizer=3, seed=seed)
        step.update(0.01)

    model, step = made(1)
    trained(step, 0)
    assert step.optimizer.defaults["fused"]
    save_checkpoint(tmp_path / "it", model=model, optimizer=step.optimizer, step_state=step, meta={})
    other, resumed = made(2)
    load_checkpoint(tmp_path / "it", model=other, optimizer=resumed.optimizer, step_state=resumed)
    for one in (step, resumed):
        trained(one, 1)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-2, atol=1e-2)
