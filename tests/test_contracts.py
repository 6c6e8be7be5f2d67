"""Every built-in part keeps the contract of its family, with the same checks as plugins."""

import subprocess
import sys
from pathlib import Path

import pytest
from decoders_here import each_decoder

from w3ray import testing
from w3ray.attention import ATTENTION
from w3ray.data.clip_sampling import SAMPLERS
from w3ray.data.importers import IMPORTERS
from w3ray.models import BACKBONES, MODELS
from w3ray.plugins import FAMILIES, table
from w3ray.sweep.schedulers import SCHEDULERS
from w3ray.sweep.searchers import SEARCHERS
from w3ray.training.losses import LOSSES


@pytest.mark.parametrize("kind", ATTENTION)
def test_attentions(kind):
    testing.check_attention(kind)
    testing.check_attention(kind, reduction=4, stages=[2])


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    testing.check_model(name)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones(name):
    testing.check_backbone(name)


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    testing.check_loss(name)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name):
    testing.check_sampler(name)


@each_decoder
def test_decoders(decoder):
    testing.check_decoder(decoder)


@pytest.mark.parametrize("name", [name for name in IMPORTERS if name not in ("folder", "csv")])
def test_importers(name):
    testing.check_importer_signature(name)


@pytest.mark.parametrize("name", SEARCHERS)
def test_searchers(name):
    testing.check_searcher(name)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name):
    testing.check_scheduler(name)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_names_its_contract(family):
    module, _, check = table(family).contract.partition(":")
    assert module == "w3ray.testing"
    assert callable(getattr(testing, check))


def test_importing_the_checks_needs_neither_pytest_nor_torch():
    code = "import sys; sys.modules['pytest'] = None; import w3ray.testing; print('torch' in sys.modules)"
    repo = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo, check=True)
    assert done.stdout.strip() == "False"
