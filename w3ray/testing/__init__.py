"""Checks of the contract of each family of parts, for the tests of plugins. w3ray's own parts pass the same checks.

    from w3ray.testing import check_loss

    def test_contract():
        check_loss("my_loss")

Each check takes a name in its family's table. It raises `ContractBroken`, whose text says in one line what is wrong.
`w3ray run` runs these checks for the plugin parts of a recipe before it starts anything. A check draws random numbers
from its own seeds and leaves torch's generator as it was. This module needs no pytest.
"""

from w3ray.testing._common import ContractBroken
from w3ray.testing.attention import check_attention
from w3ray.testing.callbacks import check_callback
from w3ray.testing.data import (
    check_augmentation,
    check_decoder,
    check_importer,
    check_importer_signature,
    check_sampler,
)
from w3ray.testing.losses import check_loss
from w3ray.testing.models import check_backbone, check_model
from w3ray.testing.sweeps import check_scheduler, check_searcher

__all__ = [
    "ContractBroken",
    "check_attention",
    "check_augmentation",
    "check_backbone",
    "check_callback",
    "check_decoder",
    "check_importer",
    "check_importer_signature",
    "check_loss",
    "check_model",
    "check_sampler",
    "check_scheduler",
    "check_searcher",
]
