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
        return loss.detach(), torch.autograd.grad(
            loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True
        )

    return loss_and_gradients


@pytest.fixture
def forbid_logits(monkeypatch):
    """Return a function after which a test fails as soon as it computes the outputs of a layer of 96 classes."""
    from torch.nn import functional as F

    linear = F.linear

    def checked(x, weight, bias=None):
        assert len(weight) != 96
        return linear(x, weight, bias)

    return lambda: monkeypatch.setattr(F, "linear", checked)


@pytest.fixture(scope="session")
def texts():
    """Texts of random words, of which prompts and padding of many lengths do not count."""
    import torch

    generator = torch.Generator().manual_seed(2)
    texts = []
    for prompt in torch.randint(8, (40,), generator=generator).tolist():
        words = torch.randint(3, 90, (12,), generator=generator)
        texts.append({"input_ids": words, "labels": words.masked_fill(torch.arange(12) < prompt, -100)})
    return texts
