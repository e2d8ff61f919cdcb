"""Write js/network.js: a trained network in float16, and test digits that it reads and misreads.

    python docs/learn/source/export_network.py

The network is checkpoints/chapter-ll.pt, which train.py trained with softmax and the log-likelihood.
"""

import base64
import sys
from pathlib import Path

import torch
from torch import Tensor

LEARN = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(LEARN.parents[1]))

from ce_torch.chapter.digits import load_test_images, load_trained  # noqa: E402

FIRST, MISTAKES = 50, 25

FILE = """\
"use strict";

// Written by source/export_network.py. The parameters are float16, w¹, b¹, w², b² in this order.
const NETWORK = {{
  sizes: [784, 30, 10],
  tested: {tested},
  mistakes: {mistakes},
  parameters: "{parameters}",
}};

// Test images of MNIST: numbers in the test set, classes, and the pixels, in which 0 is followed by how many zeros.
const DIGITS = {{
  numbers: {numbers},
  classes: {classes},
  pixels: "{pixels}",
}};
"""


def main() -> None:
    (LEARN / "js" / "network.js").write_text(script(), encoding="utf-8")


def script() -> str:
    """Return the text of js/network.js."""
    network, test = load_trained("ll").network.requires_grad_(False), load_test_images()
    network = network.half().float()  # what the page computes with
    mistakes = (network(test.x).argmax(1) != test.y).nonzero().squeeze(1)
    numbers = torch.cat([torch.arange(FIRST), mistakes[mistakes >= FIRST][:MISTAKES]])
    parameters = torch.cat([parameter.flatten() for parameter in network.parameters()]).half()
    return FILE.format(
        tested=len(test.y),
        mistakes=len(mistakes),
        parameters=encode(parameters.numpy().astype("<f2").tobytes()),
        numbers=numbers.tolist(),
        classes=test.y[numbers].tolist(),
        pixels=encode(pack(test.x[numbers])),
    )


def pack(x: Tensor) -> bytes:
    """Return pixels as bytes, in which each run of up to 255 zeros is a 0 and its length."""
    packed, zeros = bytearray(), 0
    for level in (x.flatten() * 255).round().int().tolist():
        if zeros and (level or zeros == 255):
            packed += bytes((0, zeros))
            zeros = 0
        if level:
            packed.append(level)
        else:
            zeros += 1
    return bytes(packed + bytes((0, zeros)) if zeros else packed)


def encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


if __name__ == "__main__":
    main()
