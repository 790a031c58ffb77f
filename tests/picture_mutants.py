"""Known defects of what reads, writes or learns from pictures, and the tests that should see each."""

from mutants import Mutant

GRID = ("tests/test_self_attention_2d.py", "formula")
CAPTIONER = ("tests/test_model_captioner.py", "loop_formula and additive")
CAPTIONS = ("tests/test_train_captioning.py", "padding or by_hand or expected")
SHAPES = ("tests/test_data_shapes.py", "held_out_occurs or naming_word")
PICTURES = ("tests/test_data_pictures.py", "modes or exif or outside or twice")
AUGMENTED = ("tests/test_data_captions.py", "changes_depend")
GROUNDED = ("tests/test_task_caption_grounding.py", "not supervised")
VISION = ("tests/test_model_vision.py", "patches_are or set or sagan")
LABELLED = ("tests/test_task_classify_pictures.py", "other_pictures")
HIDDEN = ("tests/test_task_fill_pictures.py", "hidden_pixels or does_not_reach or split_and_joined")
GAN = ("tests/test_model_gan.py", "hinge or by_hand or same_side")
SAMPLES = ("tests/test_task_generate_pictures.py", "any_number_of_processes or two_learning_rates")

PICTURE_MUTANTS = (
    Mutant(
        "hidden cells win the maximum",
        "model/map_pooling.py",
        "x.masked_fill(~keep[:, None], -torch.inf)",
        "x",
        GRID,
    ),
    Mutant("γ is forgotten", "model/self_attention_2d.py", "self.gamma * branch)", "branch)", GRID),
    Mutant(
        "a captioner's context has no gate",
        "model/captioner_decoder.py",
        "context = self.gate(cell[0]).sigmoid() * context",
        "context = context",
        CAPTIONER,
    ),
    Mutant(
        "the first state of a captioner is not bounded",
        "model/captioner_decoder.py",
        "self.first_state(mean).tanh()",
        "self.first_state(mean)",
        CAPTIONER,
    ),
    Mutant(
        "supervised attention reads padding",
        "train/objective/terms.py",
        "(attention_targets * queries[..., None] * log_weights)",
        "(attention_targets * log_weights)",
        CAPTIONS,
    ),
    Mutant(
        "held-out combinations of shapes occur in training",
        "data/generated/shapes/scenes.py",
        "and has_held_out == held_out",
        "and (has_held_out or not held_out)",
        SHAPES,
    ),
    Mutant(
        "words of a sentence about shapes name the next object",
        "data/generated/shapes/sentences.py",
        "+ [number] * len(naming)",
        "+ [number + 1] * len(naming)",
        SHAPES,
    ),
    Mutant(
        "a picture is not turned as its EXIF data says",
        "picture_decoding.py",
        "ImageOps.exif_transpose(image, in_place=True)",
        "image",
        PICTURES,
    ),
    Mutant(
        "transparent pixels become black",
        "picture_decoding.py",
        'Image.new("RGBA", image.size, "white")',
        'Image.new("RGBA", image.size, "black")',
        PICTURES,
    ),
    Mutant(
        "a name that points outside the zip file is read",
        "data/pictures/sources.py",
        ' or ".." in path.parts',
        "",
        PICTURES,
    ),
    Mutant(
        "of two pictures of one name the first is taken",
        "data/pictures/sources.py",
        "sorted(entry for entry in self.entries if entry.name not in self.problems)",
        "sorted(self.entries)",
        PICTURES,
    ),
    Mutant(
        "the change of a picture depends on its place in the batch",
        "data/pictures/augmentation.py",
        "row) for row in batch.rows.tolist()]",
        "row) for row in range(len(batch.rows))]",
        AUGMENTED,
    ),
    Mutant(
        "patches are read column by column",
        "model/patches.py",
        "permute(0, 2, 4, 1, 3, 5)",
        "permute(0, 4, 2, 1, 3, 5)",
        VISION,
    ),
    Mutant(
        "the summary of a picture is its last patch",
        "model/patches.py",
        "x, summary = x[:, 1:], x[:, 0]",
        "x, summary = x[:, :-1], x[:, -1]",
        VISION,
    ),
    Mutant(
        "a training is resumed with other pictures",
        "task/classify_pictures/pictures.py",
        "state.update(pictures.pixels[row].tobytes())",
        'state.update(b"")',
        LABELLED,
    ),
    Mutant(
        "the encoder sees hidden cells",
        "model/masked_pictures.py",
        "torch.where(is_hidden[:, None], colour, pictures)",
        "pictures",
        HIDDEN,
    ),
    Mutant(
        "visible cells count in the loss",
        "train/objective/reconstruction.py",
        "errors.masked_fill(~hidden, 0).sum(1)",
        "errors.sum(1)",
        HIDDEN,
    ),
    Mutant(
        "the discriminator is rewarded for generated pictures",
        "train/objective/adversarial.py",
        "(1 + scores).relu()",
        "(1 - scores).relu()",
        GAN,
    ),
    Mutant(
        "the discriminator attends on another side than the generator",
        "model/gan.py",
        "place.after == len(self.config.widths) - number",
        "place.after == number + 1",
        GAN,
    ),
    Mutant(
        "the Fréchet distance forgets the means",
        "task/generate_pictures/frechet.py",
        "((a.mean - b.mean) ** 2).sum() + traces",
        "traces",
        GAN,
    ),
    Mutant(
        "noise depends on the place in the batch",
        "data/pictures/noise.py",
        "for row in batch.rows.tolist()",
        "for row in range(len(batch.rows))",
        SAMPLES,
    ),
    Mutant(
        "both networks have one learning rate",
        "train/objective/adversarial.py",
        "self.rate_ratio * config.lr",
        "config.lr",
        SAMPLES,
    ),
    Mutant(
        "the boxes of a mirrored picture stay where they were",
        "data/pictures/augmentation.py",
        "np.stack([1 - right, top, 1 - left, bottom], 1)",
        "np.stack([left, top, right, bottom], 1)",
        GROUNDED,
    ),
    Mutant(
        "pictures whose caption names a side are mirrored",
        "task/caption/batches.py",
        "change._replace(is_mirrored=False) if names_side else change",
        "change",
        GROUNDED,
    ),
    Mutant(
        "the cells of a CNN divide the picture evenly",
        "task/grid_axes.py",
        "first = (0.5 - step / 2) / size",
        "first = 0.0",
        GROUNDED,
    ),
    Mutant(
        "an object that left the picture still has a target",
        "task/caption/grounding.py",
        "None if n is None else places.get(n)",
        "None if n is None else places.get(n, 0)",
        GROUNDED,
    ),
    Mutant(
        "a film strip divides the picture evenly",
        "view/film.py",
        "np.interp(places[1], film.columns, row)",
        "np.interp(places[1], (np.arange(len(row)) + 0.5) / len(row), row)",
        ("tests/test_view_film.py", "lie_where"),
    ),
)
