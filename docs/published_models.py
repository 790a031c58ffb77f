"""Published models as configurations of ours, with what their papers report."""

from collections.abc import Mapping
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
        tokens: length of a row -> tokens read in rows of that length in the whole training, targets for a
            translator; None where no source that was found says.
        device: what it was trained on; None where nothing says.
        device_days: how many of these for how long; None where nothing says.
        source: the paper or report.
        verified: what of all this was compared with the text of the source, or with which other source.
    """

    name: str
    config: Any
    sizes: Sizes
    parameters: float
    deviation: str
    tokens: Mapping[int, float] | None
    device: Device | None
    device_days: float | None
    source: str
    verified: str


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

# BERT reads rows of 128 tokens in 90 % of its steps, and rows of 512 in the others.
BERT_TOKENS = {128: 0.9e6 * 256 * 128, 512: 0.1e6 * 256 * 512}

TRANSFORMER_WHY = "the vocabulary of about 37,000 pieces is not stated exactly"
BERT_WHY = (
    "without segment vectors, the pooling layer and the normalisation of the embeddings, and with the output "
    "layer of the masked model"
)
GPT2_WHY = (
    "the paper's numbers are wrong, as the authors say beside the released weights, whose names are 124M, "
    "355M, 774M and 1558M"
)

TRANSFORMER_VERIFIED = "all, in the text of the paper; P100's 9.5·10¹²/s is the paper's own estimate"
BERT_VERIFIED = (
    "all but the version of the TPUs, in quotations of the paper's section 3 and appendix A.2; the share of "
    "the two lengths also in a public model card"
)
GPT2_VERIFIED = (
    "layers, widths, heads and vocabulary in published configurations; the error, 117M and 345M in the "
    "authors' README; 762M in a secondary list. Not verified: 1542M"
)
MEGATRON_VERIFIED = "all, in the text of the paper, tables 1 and 2, sections 4 and 5"
TURING_VERIFIED = (
    "layers, width, heads and parameters in reports of its announcement. Not verified: the vocabulary, taken "
    "from Megatron-LM. Tokens and training time were not found"
)
GPT3_VERIFIED = (
    "layers, width, heads and context in secondary lists; parameters, tokens and operations in quotations of "
    "the paper's table D.1. Not verified: the vocabulary, taken from GPT-2, and which layers are sparse"
)

PUBLISHED = (
    Published(
        "Transformer-Base",
        _transformer(512, 8),
        PAIRS,
        65e6,
        TRANSFORMER_WHY,
        {32: 100_000 * 25_000},
        P100,
        8 * 0.5,
        "Vaswani et al. 2017",
        TRANSFORMER_VERIFIED,
    ),
    Published(
        "Transformer-Big",
        _transformer(1024, 16),
        PAIRS,
        213e6,
        TRANSFORMER_WHY,
        {32: 300_000 * 25_000},
        P100,
        8 * 3.5,
        "Vaswani et al. 2017",
        TRANSFORMER_VERIFIED,
    ),
    Published(
        "BERT-Base",
        _bert(12, 768, 12),
        MASKED,
        110e6,
        BERT_WHY,
        BERT_TOKENS,
        TPU_V2,
        16 * 4,
        "Devlin et al. 2019",
        BERT_VERIFIED,
    ),
    Published(
        "BERT-Large",
        _bert(24, 1024, 16),
        MASKED,
        340e6,
        BERT_WHY,
        BERT_TOKENS,
        TPU_V2,
        64 * 4,
        "Devlin et al. 2019",
        BERT_VERIFIED,
    ),
    *(
        Published(
            *(name, _gpt(*sizes), WEB, parameters, GPT2_WHY, None, None, None),
            *("Radford et al. 2019", GPT2_VERIFIED),
        )
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
        {1024: 300_000 * 512 * 1024},
        V100,
        512 * 2.10 * 300_000 / 68_507,
        "Shoeybi et al. 2019",
        MEGATRON_VERIFIED,
    ),
    Published(
        "Turing-NLG",
        _gpt(78, 4256, 28),
        MEGATRON,
        17e9,
        "",
        None,
        None,
        None,
        "Microsoft 2020",
        TURING_VERIFIED,
    ),
    Published(
        "GPT-3",
        _gpt(96, 12288, 96, 2048),
        GPT3,
        175e9,
        "rounded; its sparse attention in every second layer is counted dense",
        {2048: 300e9},
        None,
        None,
        "Brown et al. 2020",
        GPT3_VERIFIED,
    ),
)
