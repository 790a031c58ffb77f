"""One training step of every kind of model: the model, its objective, and a batch of real tokens only."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from qkv.cost.modes import NoInitialValues
from qkv.data.masking import MaskedSegment
from qkv.data.pairs import Pairs
from qkv.data.pictures import HiddenBatch, NoiseBatch
from qkv.data.streams import Segment
from qkv.errors import BadRecipe
from qkv.model.captioner import build_captioner
from qkv.model.captioner_config import RecurrentCaptionerConfig, TransformerCaptionerConfig
from qkv.model.captioner_encoder import GridConfig
from qkv.model.classifier import Classifier, ClassifierConfig
from qkv.model.encoder import EncoderConfig, MaskedLanguageModel
from qkv.model.gan import GAN, GANConfig
from qkv.model.hierarchical import HierarchicalClassifier, HierarchicalConfig
from qkv.model.language import LanguageModel, LanguageModelConfig
from qkv.model.masked_pictures import MaskedPictureModel, compute_cell_grid
from qkv.model.patches import PatchConfig
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.model.transformer import Transformer, TransformerConfig
from qkv.model.vision import CNNConfig
from qkv.model.vision_classifier import CNNClassifierConfig, PatchClassifierConfig, VisionClassifier
from qkv.train import AttentionTerms, Objective
from qkv.train.objective.adversarial import DISCRIMINATOR, GENERATOR, Adversarial
from qkv.train.objective.captioning import Captioning
from qkv.train.objective.classification import Classification
from qkv.train.objective.language import LanguageModeling
from qkv.train.objective.masked import MaskedLanguageModeling
from qkv.train.objective.reconstruction import Reconstruction
from qkv.train.objective.translation import Translation

GRID_SIDE = 14  # cells of a grid of annotation vectors that another model computed, in each direction


class Sizes(NamedTuple):
    """The sizes that a model's config does not set.

    Args:
        batch: B, the rows of a step.
        length: the tokens of a row: source and target alike, end symbol included.
        source_vocab: V of the source, or of the only text.
        target_vocab: V of the target.
        classes: the number of classes of a classifier.
        texts: the texts of an example of a classifier.
        picture: the side of a picture in pixels.
        smoothing: label smoothing, which adds a product to the loss.
        predicted: the share of the tokens that a masked language model predicts.
        terms: the factors of the attention's terms, which need its weights.
        precision: the number format of matrix products: "32", or "bf16" and "16" under autocast.
    """

    batch: int = 32
    length: int = 64
    source_vocab: int = 8000
    target_vocab: int = 8000
    classes: int = 2
    texts: int = 1
    picture: int = 32
    smoothing: float = 0.0
    predicted: float = 0.15
    terms: AttentionTerms = AttentionTerms()
    precision: Literal["32", "bf16", "16"] = "32"


class LabelledBatch(NamedTuple):
    """A batch of a classifier: the arguments of the model, and the class of every row."""

    inputs: tuple[Any, ...]
    labels: Tensor


class CaptionBatch(NamedTuple):
    """A batch of a captioner: pictures, and captions from BOS to EOS."""

    pictures: Tensor
    target: Tensor
    target_keep: Tensor


class Workload(NamedTuple):
    """One step of training.

    Args:
        model: the model.
        objective: computes the loss of a batch.
        batch: the batch, all of whose tokens are real.
        counted: what the step counts (tokens, documents, pictures), as throughputs are stated.
        unit: the name of that, in the plural.
        selected: how many rows a mask of the batch selects; None: all.
        turns: the further arguments of the objective in each pass: networks that are trained against each
            other take turns.
    """

    model: nn.Module
    objective: Objective
    batch: Any
    counted: int
    unit: str
    selected: int | None = None
    turns: tuple[tuple[str, ...], ...] = ((),)

    def compute_loss(self, turn: tuple[str, ...] = ()) -> Tensor:
        """The loss of one pass, summed over what is counted.

        Args:
            turn: one of `turns`.
        """
        return self.objective(self.batch, *turn).total


def build_workload(config: Any, sizes: Sizes, device: str = "meta") -> Workload:
    """Build one training step.

    Args:
        config: the config of a model: any section `model` of a recipe.
        sizes: what the config does not set.
        device: "meta", or where to compute a real step.

    Returns:
        The step.

    Raises:
        BadRecipe: the length is more than the model can read, or there is no step for this kind of model.
    """
    build = _BUILDERS.get(type(config))
    if build is None:
        raise BadRecipe(f"qkv cost knows no training step of {type(config).__name__}")
    check_length(config, sizes.length)
    with torch.device(device), NoInitialValues():
        return build(config, sizes)


def check_length(config: Any, length: int) -> None:
    """Check that a model can read rows of a length.

    Args:
        config: the config of the model.
        length: tokens of a row.

    Raises:
        BadRecipe: it cannot.
    """
    if isinstance(config, _WITHOUT_LENGTH):
        return
    limits = config.length_limits
    is_text = not isinstance(config, _PICTURE_KINDS)
    for limit in (limits.source if is_text else None, limits.target):
        if limit is not None and length > limit.positions:
            raise BadRecipe(
                f"a length of {length:,} tokens is more than {limit.key}={limit.positions:,} holds: pass a "
                f"shorter --length, or --set {limit.key}={length}"
            )


def _translate(config: TransformerConfig | RNNConfig, sizes: Sizes) -> Workload:
    kind: Any = Transformer if isinstance(config, TransformerConfig) else RNNTranslator
    model = kind(config, sizes.source_vocab, sizes.target_vocab)
    objective = Translation(model, sizes.smoothing, sizes.terms)
    (source, source_keep), (target, target_keep) = _make_tokens(sizes, 0), _make_tokens(sizes, 1)
    batch = Pairs(source, source_keep, target, target_keep)
    return Workload(model, objective, batch, sizes.batch * sizes.length, "target tokens")


def _generate(config: LanguageModelConfig, sizes: Sizes) -> Workload:
    model = LanguageModel(config, sizes.source_vocab)
    objective = LanguageModeling(model, sizes.smoothing, sizes.terms)
    tokens, keep = _make_tokens(sizes)
    return Workload(
        model, objective, Segment(tokens, tokens, keep, True), sizes.batch * sizes.length, "tokens"
    )


def _fill(config: EncoderConfig, sizes: Sizes) -> Workload:
    model = MaskedLanguageModel(config, sizes.source_vocab)
    objective = MaskedLanguageModeling(model, sizes.smoothing)
    tokens, keep = _make_tokens(sizes)
    predicted = max(1, round(sizes.predicted * sizes.length))
    batch = MaskedSegment(tokens, tokens, keep, _choose_first(keep, predicted))
    counted, selected = sizes.batch * sizes.length, sizes.batch * predicted
    return Workload(model, objective, batch, counted, "tokens", selected)


def _classify(config: ClassifierConfig | HierarchicalConfig, sizes: Sizes) -> Workload:
    if isinstance(config, HierarchicalConfig):
        model: nn.Module = HierarchicalClassifier(config, sizes.source_vocab, sizes.classes, sizes.texts)
        words = min(config.max_sentence_length, sizes.length)
        shape = (sizes.batch, -(-sizes.length // words), words)
    else:
        model = Classifier(config, sizes.source_vocab, sizes.classes, sizes.texts)
        shape = (sizes.batch, sizes.length)
    tokens = torch.zeros(shape, dtype=torch.int64)
    inputs = ([tokens] * sizes.texts, [torch.ones(shape, dtype=torch.bool)] * sizes.texts)
    labels = torch.zeros(sizes.batch, dtype=torch.int64)
    objective = Classification(model, sizes.smoothing)
    return Workload(model, objective, LabelledBatch(inputs, labels), sizes.batch, "documents")


def _classify_pictures(config: CNNClassifierConfig | PatchClassifierConfig, sizes: Sizes) -> Workload:
    model = VisionClassifier(config, sizes.classes)
    batch = LabelledBatch((_make_pictures(sizes),), torch.zeros(sizes.batch, dtype=torch.int64))
    objective = Classification(model, sizes.smoothing, unit="pictures")
    return Workload(model, objective, batch, sizes.batch, "pictures")


def _fill_pictures(config: CNNConfig | PatchConfig, sizes: Sizes) -> Workload:
    model = MaskedPictureModel(config)
    hidden = torch.ones(sizes.batch, *compute_cell_grid(sizes.picture, config), dtype=torch.bool)
    batch = HiddenBatch(_make_pictures(sizes), hidden)
    return Workload(model, Reconstruction(model), batch, sizes.batch, "pictures")


def _generate_pictures(config: GANConfig, sizes: Sizes) -> Workload:
    model = GAN(config)
    batch = NoiseBatch(_make_pictures(sizes), torch.zeros(sizes.batch, 2, config.noise))
    turns = ((DISCRIMINATOR,), (GENERATOR,))
    return Workload(model, Adversarial(model), batch, sizes.batch, "pictures", turns=turns)


def _caption(config: RecurrentCaptionerConfig | TransformerCaptionerConfig, sizes: Sizes) -> Workload:
    model = build_captioner(config, sizes.target_vocab)
    pictures = _make_pictures(sizes)
    if isinstance(config.encoder, GridConfig):
        pictures = torch.zeros(sizes.batch, GRID_SIDE, GRID_SIDE, config.encoder.width)
    batch = CaptionBatch(pictures, *_make_tokens(sizes, 1))
    objective = Captioning(model, sizes.smoothing)
    return Workload(model, objective, batch, sizes.batch * sizes.length, "words")


def _make_tokens(sizes: Sizes, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids [B,N] and their mask, which is True everywhere."""
    shape = (sizes.batch, sizes.length + extra)
    return torch.ones(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.bool)


def _make_pictures(sizes: Sizes) -> Tensor:
    return torch.zeros(sizes.batch, 3, sizes.picture, sizes.picture, dtype=torch.uint8)


def _choose_first(keep: Tensor, count: int) -> Tensor:
    """A mask like `keep`, True at the first `count` positions of every row."""
    return (torch.arange(keep.shape[1]) < count).expand(keep.shape).clone()


_WITHOUT_LENGTH = (CNNClassifierConfig, CNNConfig, PatchConfig, GANConfig)
_PICTURE_KINDS = (
    PatchClassifierConfig,
    RecurrentCaptionerConfig,
    TransformerCaptionerConfig,
)
_BUILDERS: dict[type, Callable[[Any, Sizes], Workload]] = {
    TransformerConfig: _translate,
    RNNConfig: _translate,
    LanguageModelConfig: _generate,
    EncoderConfig: _fill,
    ClassifierConfig: _classify,
    HierarchicalConfig: _classify,
    CNNClassifierConfig: _classify_pictures,
    PatchClassifierConfig: _classify_pictures,
    CNNConfig: _fill_pictures,
    PatchConfig: _fill_pictures,
    GANConfig: _generate_pictures,
    RecurrentCaptionerConfig: _caption,
    TransformerCaptionerConfig: _caption,
}
