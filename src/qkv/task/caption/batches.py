"""Captions with their pictures as batches, with random changes of the pictures in training."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from qkv.data.batching import BatchPlan, Dataset, Ragged
from qkv.data.pairs import collate_target
from qkv.data.pictures.augmentation import PictureChange, draw_picture_change
from qkv.data.pictures.boxes import CellCentres
from qkv.errors import BadData
from qkv.task.caption.examples import CaptionedExamples, NamedObjects, stack_inputs
from qkv.task.caption.grounding import make_attention_targets
from qkv.task.caption.metrics import split_words
from qkv.task.caption.recipe import CaptionAugmentationConfig, CaptionRecipe
from qkv.task.texts import AnyTokenizer


class CaptionBatch(NamedTuple):
    """Captions and their pictures.

    Args:
        pictures: [B,3,S,S].
        target: [B,T+1] token ids, each row runs from BOS to EOS.
        target_keep: [B,T+1], True at real tokens, BOS and EOS included.
        rows: [B], numbers of the captions in their data set.
        attention_targets: [B,T,L], for every token after BOS the distribution that its weights should equal,
            or zeros; None where attention is not supervised.
    """

    pictures: Tensor
    target: Int64[Tensor, "B N"]
    target_keep: Bool[Tensor, "B N"]
    rows: Int64[Tensor, "B"]
    attention_targets: Float32[Tensor, "B T L"] | None = None

    def to(self, device: Any) -> "CaptionBatch":
        """The batch on another device."""
        return CaptionBatch(*(None if each is None else each.to(device) for each in self))  # pyright: ignore


class EncodedCaptions(NamedTuple):
    """Captions as token ids.

    Args:
        ids: the token ids of every caption that is used, without BOS and EOS.
        places: the places of their pictures among the examples.
        texts: their text.
        notes: lines for the log about captions that were left out.
    """

    ids: list[list[int]]
    places: list[int]
    texts: list[str]
    notes: list[str]


def encode_captions(examples: CaptionedExamples, tokenizer: AnyTokenizer, max_length: int) -> EncodedCaptions:
    """The token ids of all captions that are not longer than `max_length` tokens.

    Args:
        examples: the pictures with their captions.
        tokenizer: the tokenizer.
        max_length: the most tokens.

    Raises:
        BadData: every caption is longer.
    """
    places = [place for place in range(len(examples)) for _ in examples.get_captions(place)]
    texts = [text for place in range(len(examples)) for text in examples.get_captions(place)]
    ids = tokenizer.encode(texts)
    kept = [number for number, row in enumerate(ids) if 0 < len(row) <= max_length]
    if not kept:
        raise BadData(
            f"every one of {len(texts):,} captions is longer than batch.max_length={max_length} tokens: "
            "raise it"
        )
    notes = []
    if len(kept) < len(texts):
        count = len(texts) - len(kept)
        notes.append(
            f"left out {count:,} of {len(texts):,} captions: longer than batch.max_length={max_length} tokens"
        )
    return EncodedCaptions(
        [ids[number] for number in kept],
        [places[number] for number in kept],
        [texts[number] for number in kept],
        notes,
    )


def make_dataset(examples: CaptionedExamples, captions: EncodedCaptions) -> Dataset[CaptionBatch]:
    """A row for every caption; the loss counts its tokens, EOS included."""
    ids = Ragged(captions.ids)
    return Dataset(
        [_PixelsOfCaptions(examples, captions.places), ids, np.arange(len(captions.ids))],
        _collate,
        positions=np.ones(len(captions.ids), np.int64),
        counts=ids.lengths + 1,
        tie_break=ids.lengths,
        row_name="caption",
    )


class CaptionPlan:
    """The batches of a plan, with every picture changed at random, and with targets of the attention.

    What happens to a picture depends on (seed, epoch, update, row) alone: not on the batch that it is in, on
    the process that reads it, or on what was drawn before.  The boxes of objects move with the picture.

    Args:
        plan: the batches.
        examples: the pictures with their captions.
        captions: the captions of the rows.
        recipe: its random changes and seed.
        tokenizer: the tokenizer.
        centres: where the cells of the grid are, where attention is supervised.
    """

    def __init__(
        self,
        plan: BatchPlan[CaptionBatch],
        examples: CaptionedExamples,
        captions: EncodedCaptions,
        recipe: CaptionRecipe,
        tokenizer: AnyTokenizer,
        centres: CellCentres | None,
    ) -> None:
        self.plan, self.examples, self.captions, self.centres = plan, examples, captions, centres
        self.config, self.seed, self.tokenizer = recipe.augment, recipe.train.seed, tokenizer

    def steps(self, epoch: int) -> int:
        """The number of updates in this epoch."""
        return self.plan.steps(epoch)

    def count(self, epoch: int, index: int) -> int:
        """How many tokens one update counts, over all processes."""
        return self.plan.count(epoch, index)

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[CaptionBatch]:
        """The changed batches of one update on one process."""
        batches = self.plan.window(epoch, index, rank, world)
        return [self._change(batch, epoch, index) for batch in batches]

    def _change(self, batch: CaptionBatch, epoch: int, index: int) -> CaptionBatch:
        rows = batch.rows.tolist()
        changes = [
            draw_change_of_caption(self.captions.texts[row], self.config, (self.seed, epoch, index, row))
            for row in rows
        ]
        pictures = batch.pictures
        if any(change.is_any for change in changes):
            pictures = torch.stack([c.apply_to_pixels(p) for c, p in zip(changes, pictures, strict=True)])
        if self.centres is None:
            return batch._replace(pictures=pictures)
        targets = torch.zeros(
            len(rows), batch.target.shape[1] - 1, len(self.centres.rows) * len(self.centres.columns)
        )
        for number, (row, change) in enumerate(zip(rows, changes, strict=True)):
            one = self._make_targets(row, change, pictures.shape[-1])
            targets[number, : len(one)] = torch.from_numpy(one)
        return batch._replace(pictures=pictures, attention_targets=targets)

    def _make_targets(self, row: int, change: PictureChange, size: int) -> Float32[np.ndarray, "T L"]:
        objects = self.examples.find_objects(self.captions.places[row])
        assert objects is not None
        assert self.centres is not None
        moved = NamedObjects(objects.named, change.apply_to_boxes(objects.boxes, size))
        return make_attention_targets(self.captions.ids[row], moved, self.centres, self.tokenizer)


def draw_change_of_caption(
    caption: str, config: CaptionAugmentationConfig, key: tuple[int, ...]
) -> PictureChange:
    """A random change of a picture; one whose caption names a side is not mirrored.

    Args:
        caption: the caption.
        config: the changes.
        key: numbers that the change depends on.
    """
    change = draw_picture_change(config, key)
    names_side = change.is_mirrored and not {*config.sides}.isdisjoint(split_words(caption))
    return change._replace(is_mirrored=False) if names_side else change


class _PixelsOfCaptions:
    """The column of the pictures of captions."""

    def __init__(self, examples: CaptionedExamples, places: Sequence[int]) -> None:
        self.examples, self.places = examples, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int, /) -> np.ndarray:
        return self.examples.get_pixels(self.places[index])


def _collate(pixels: Sequence[Any], ids: Sequence[Any], rows: Sequence[Any]) -> CaptionBatch:
    numbers = torch.tensor(rows, dtype=torch.int64)
    return CaptionBatch(stack_inputs(pixels), *collate_target(ids), numbers)
