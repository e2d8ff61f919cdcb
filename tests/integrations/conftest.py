"""Small models of transformers, each with its own loss and with the linear cost."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # some models look there for kernels


@pytest.fixture(scope="session")
def architectures():
    """The module of that name, whose import takes seconds."""
    import architectures

    return architectures


@pytest.fixture(scope="session")
def build(architectures):
    return architectures.build


@pytest.fixture
def batch(architectures):
    return architectures.batch()


@pytest.fixture(scope="session")
def loss_and_gradients():
    """Return a function: the loss of a model for a batch, and the gradients of its parameters."""
    import torch

    def loss_and_gradients(model, batch, **autocast):
        torch.manual_seed(1)  # for what draws numbers
        with torch.autocast("cpu", torch.bfloat16, **({"enabled": False} | autocast)):
            loss = model(**batch).loss
        return loss.detach(), torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)

    return loss_and_gradients
