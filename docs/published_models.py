"""Published models as configurations of ours, with what their papers report."""

from typing import Any, NamedTuple

from qkv.cost.workload import Sizes
from qkv.model.encoder import EncoderConfig
from qkv.model.language import LanguageModelConfig
from qkv.model.transformer import TransformerConfig


class Device(NamedTuple):
    """An accelerator, with the operations per second that are stated for its matrix products."""

    name: str
    operations: float


P100 = Device("P100", 9.5e12)
TPU_V2 = Device("TPU v2 chip", 45e12)
V100 = Device("V100", 125e12)


class Published(NamedTuple):
    """A published model.

    Args:
        name: its name.
        config: the nearest config of this library.
        sizes: one row of its training batches.
        parameters: what the paper reports.
        deviation: why the computed number differs.
        tokens: tokens of the whole training, targets for a translator; None where nothing says.
        device: what it was trained on; None where nothing says.
        device_days: how many of these for how long; None where nothing says.
        source: the paper.
    """

    name: str
    config: Any
    sizes: Sizes
    parameters: float
    deviation: str
    tokens: float | None
    device: Device | None
    device_days: float | None
    source: str


def _transformer(width: int, heads: int) -> TransformerConfig:
    return TransformerConfig(
        encoder_layers=6,
        decoder_layers=6,
        width=width,
        heads=heads,
        feedforward=4 * width,
        norm="post",
        dropout=0.1,
    )


def _bert(layers: int, width: int, heads: int) -> EncoderConfig:
    return EncoderConfig(
        layers=layers, width=width, heads=heads, feedforward=4 * width, positions="learned", max_length=512
    )


def _gpt(layers: int, width: int, heads: int, context: int = 1024) -> LanguageModelConfig:
    return LanguageModelConfig(
        layers=layers,
        width=width,
        heads=heads,
        feedforward=4 * width,
        positions="learned",
        max_length=context,
    )


PAIRS = Sizes(batch=1, length=32, source_vocab=37000, target_vocab=37000, smoothing=0.1)
MASKED = Sizes(batch=1, length=512, source_vocab=30522)
WEB = Sizes(batch=1, length=1024, source_vocab=50257)
MEGATRON = WEB._replace(source_vocab=51200)
GPT3 = WEB._replace(length=2048)

TRANSFORMER_WHY = "the vocabulary of about 37,000 pieces is not stated exactly"
BERT_WHY = (
    "without segment vectors, the pooling layer and the normalisation of the embeddings, and with the output "
    "layer of the masked model"
)
GPT2_WHY = (
    "the paper's number is too low, as its authors say with the released weights (124M, 355M, 774M and 1558M)"
)

PUBLISHED = (
    Published(
        "Transformer-Base",
        _transformer(512, 8),
        PAIRS,
        65e6,
        TRANSFORMER_WHY,
        100_000 * 25_000,
        P100,
        8 * 0.5,
        "Vaswani et al. 2017",
    ),
    Published(
        "Transformer-Big",
        _transformer(1024, 16),
        PAIRS,
        213e6,
        TRANSFORMER_WHY,
        300_000 * 25_000,
        P100,
        8 * 3.5,
        "Vaswani et al. 2017",
    ),
    Published(
        "BERT-Base",
        _bert(12, 768, 12),
        MASKED,
        110e6,
        BERT_WHY,
        1e6 * 256 * 512,
        TPU_V2,
        16 * 4,
        "Devlin et al. 2019",
    ),
    Published(
        "BERT-Large",
        _bert(24, 1024, 16),
        MASKED,
        340e6,
        BERT_WHY,
        1e6 * 256 * 512,
        TPU_V2,
        64 * 4,
        "Devlin et al. 2019",
    ),
    *(
        Published(name, _gpt(*sizes), WEB, parameters, GPT2_WHY, None, None, None, "Radford et al. 2019")
        for name, sizes, parameters in (
            ("GPT-2 small", (12, 768, 12), 117e6),
            ("GPT-2 medium", (24, 1024, 16), 345e6),
            ("GPT-2 large", (36, 1280, 20), 762e6),
            ("GPT-2 XL", (48, 1600, 25), 1542e6),
        )
    ),
    Published(
        "Megatron-LM",
        _gpt(72, 3072, 24),
        MEGATRON,
        8.3e9,
        "",
        300_000 * 512 * 1024,
        V100,
        512 * 2.10 * 300_000 / 68_507,
        "Shoeybi et al. 2019",
    ),
    Published(
        "Turing-NLG",
        _gpt(78, 4256, 28),
        MEGATRON,
        17e9,
        "",
        300_000 * 512 * 1024,
        None,
        None,
        "Microsoft 2020",
    ),
    Published(
        "GPT-3",
        _gpt(96, 12288, 96, 2048),
        GPT3,
        175e9,
        "rounded; its sparse attention in every second layer is counted dense",
        300e9,
        None,
        None,
        "Brown et al. 2020",
    ),
)
