"""Augmentations: the same change for all frames, torchvision's own values, a pure function of the generator."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from w3ray.data.augmentation import AUGMENTATIONS, AugmentationChoice
from w3ray.data.clip import ClipSpec, read_clip
from w3ray.data.synthetic import write_video
from w3ray.testing import check_augmentation

BUILT_IN = ("color_jitter", "rand_augment", "random_erasing", "trivial_augment")


def picture(num_frames=4, side=48, channels=3):
    """A clip of one still picture."""
    frame = np.random.default_rng(0).integers(0, 256, (1, side, side, channels), dtype=np.uint8)
    return np.repeat(frame, num_frames, axis=0)


def draws(name, count=40, **kwargs):
    choice, clip = AugmentationChoice.of(name), picture(**kwargs)
    return clip, [choice(clip.copy(), np.random.default_rng(seed)) for seed in range(count)]


def test_the_built_in_ones():
    assert tuple(AUGMENTATIONS) == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
class TestEach:
    def test_contract(self, name):
        check_augmentation(name)

    def test_one_draw_for_all_frames(self, name):
        changed = draws(name)[1]
        assert all((one == one[:1]).all() for one in changed)
        assert len({one.tobytes() for one in changed}) > 10

    def test_torchs_own_random_numbers_are_untouched(self, name):
        torch.manual_seed(3)
        before = torch.random.get_rng_state()
        draws(name, count=1)
        assert torch.equal(before, torch.random.get_rng_state())
        torch.manual_seed(4)  # and they decide nothing
        assert np.array_equal(draws(name, count=3)[1], draws(name, count=3)[1])


@pytest.mark.parametrize(
    ("choice", "reference"),
    [
        ({"name": "rand_augment", "num_ops": 3, "magnitude": 15}, v2.RandAugment(3, 15)),
        ("trivial_augment", v2.TrivialAugmentWide()),
        (
            {
                "name": "color_jitter",
                "brightness": 0.3,
                "contrast": 0,
                "saturation": 0.2,
                "hue": 0.05,
                "probability": 1,
            },
            v2.RandomApply([v2.ColorJitter(0.3, 0, 0.2, 0.05)], p=1.0),
        ),
        (
            {"name": "random_erasing", "probability": 1, "least_area": 0.1, "most_area": 0.2},
            v2.RandomErasing(1, (0.1, 0.2), (0.3, 1 / 0.3), [124.0, 116.0, 104.0]),
        ),
    ],
    ids=str,
)
def test_values_are_torchvisions(choice, reference):
    clip = picture()
    for seed in range(20):
        ours = AugmentationChoice.of(choice)(clip, np.random.default_rng(seed))
        torch.manual_seed(int(np.random.default_rng(seed).integers(2**63)))
        theirs = reference(torch.from_numpy(clip).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(ours, theirs)


def test_erased_flow_has_no_motion():
    clip, changed = draws({"name": "random_erasing", "probability": 1}, count=5, channels=10)
    assert all((one[one != clip] == 128).all() and (one != clip).any() for one in changed)


class TestChoice:
    def test_absent_options_are_written_out(self):
        choice = AugmentationChoice.of("rand_augment")
        assert choice.written() == {"name": "rand_augment", "num_ops": 2, "magnitude": 9}
        assert choice == AugmentationChoice.of(choice.written()) == AugmentationChoice.of(choice)
        assert choice == AugmentationChoice.of({"name": "rand_augment", "magnitude": 9})
        assert AugmentationChoice.of("trivial_augment").written() == "trivial_augment"

    def test_a_spec_is_read_from_its_values(self):
        spec = ClipSpec(augmentations=("trivial_augment", {"name": "rand_augment", "magnitude": 4}))
        assert ClipSpec(**spec.values()) == spec
        assert spec.values()["augmentations"][1]["num_ops"] == 2

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("rand_augmnt", "unknown augmentation 'rand_augmnt'; did you mean 'rand_augment'?"),
            (7, "7 must be a name, or a section with a name and its options"),
            ({"magnitude": 3}, "must be a name, or a section"),
            ({"name": "rand_augment", "magnitude": 31}, "magnitude=31: must be a whole number from 0 to 30"),
            ({"name": "rand_augment", "magnitude": -1}, "magnitude=-1: must be a whole number >= 0"),
            ({"name": "rand_augment", "magnitude": 9.0}, "magnitude=9.0: must be a whole number"),
            ({"name": "rand_augment", "num_ops": 0}, "num_ops=0"),
            ({"name": "rand_augment", "magnitde": 3}, "unknown option magnitde; did you mean 'magnitude'?"),
            ({"name": "trivial_augment", "p": 1}, "trivial_augment: unknown option p"),
            ({"name": "color_jitter", "hue": 0.6}, "hue=0.6: must be a number from 0 to 0.5"),
            ({"name": "color_jitter", "brightness": -0.1}, "brightness=-0.1: must be a number from 0 to 1"),
            ({"name": "random_erasing", "probability": True}, "probability=True: must be a number"),
            ({"name": "random_erasing", "least_area": 0.5}, "least_area=0.5: must be above 0 and at most most_area"),
            ({"name": "random_erasing", "least_area": 0}, "least_area=0: must be above 0"),
        ],
    )
    def test_errors(self, value, said):
        with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
            AugmentationChoice.of(value)
        assert said in str(caught.value)

    @pytest.mark.parametrize("name", ["color_jitter", "rand_augment", "trivial_augment"])
    def test_flow_has_no_colours(self, name):
        with pytest.raises(ValueError, match=f"{name} changes colours, and a clip of optical flow has none"):
            ClipSpec(augmentations=(name,), flow_fields=5)
        assert ClipSpec(augmentations=("random_erasing",), flow_fields=5).channels == 10


def test_training_clips_have_them_and_evaluation_clips_do_not(tmp_path):
    path = tmp_path / "noise.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8), 10, quantiser=4)
    plain, changed = (
        ClipSpec(num_frames=4, size=32, augmentations=names) for names in ((), ("trivial_augment", "color_jitter"))
    )

    def clip(spec, seed):
        rng = None if seed is None else np.random.default_rng(seed)
        return read_clip(str(path), label=0, spec=spec, rng=rng)

    assert np.array_equal(clip(plain, None).frames_TSSC, clip(changed, None).frames_TSSC)
    pairs = [(clip(plain, seed), clip(changed, seed)) for seed in range(4)]
    # What is drawn before them stays what it is without them.
    assert all(one.box == other.box and np.array_equal(one.numbers_T, other.numbers_T) for one, other in pairs)
    assert any(not np.array_equal(one.frames_TSSC, other.frames_TSSC) for one, other in pairs)
