"""Known defects of models, data, training and tasks, and the tests that should see each."""

from mutants import Mutant

GRID = ("tests/test_self_attention_2d.py", "formula")
TERMS = ("tests/test_train_terms.py", "")
RNN = ("tests/test_model_seq2seq.py", "luong or feeding")
CAPTIONER = ("tests/test_model_captioner.py", "loop_formula and additive")
CAPTIONS = ("tests/test_train_captioning.py", "padding or by_hand or expected")
SAVED = ("tests/test_train_saved.py", "moments")
LOCKED = ("tests/test_task_directory_lock.py", "not death")
ORIGIN = ("tests/test_task_resume_checks.py", "other_data or tokenizer_of or diverged")
RANKS = ("tests/test_train_ranks.py", "")
SHARDS = ("tests/test_train_parallel.py", "")
INITIAL = ("tests/test_task_initial_weights.py", "encoder or refused or other_names or another_run")
TRANSFER = ("tests/test_train_transfer.py", "not falls")
LAYERS = ("tests/test_train_optimizers.py", "rates_fall")
MODELS_MADE_ELSEWHERE = ("tests/test_torch_creation.py", "model_on_meta")
MODELS = ("tests/contracts/test_contract_models.py", "softmax or gru or convolution or first or window")
SHAPES = ("tests/test_data_shapes.py", "held_out_occurs or naming_word")
PICTURES = ("tests/test_data_pictures.py", "modes or exif or outside or twice")
AUGMENTED = ("tests/test_data_captions.py", "changes_depend")
VISION = ("tests/test_model_vision.py", "patches_are or set or sagan")
LABELLED = ("tests/test_task_classify_pictures.py", "other_pictures")
HIDDEN = ("tests/test_task_fill_pictures.py", "hidden_pixels or does_not_reach or split_and_joined")
GAN = ("tests/test_model_gan.py", "hinge or by_hand or same_side")
SAMPLES = ("tests/test_task_generate_pictures.py", "any_number_of_processes or two_learning_rates")
LEVELS = ("tests/test_model_hierarchical.py", "gru")

TASK_MUTANTS = (
    Mutant(
        "hidden cells win the maximum",
        "model/map_pooling.py",
        "x.masked_fill(~keep[:, None], -torch.inf)",
        "x",
        GRID,
    ),
    Mutant("γ is forgotten", "model/self_attention_2d.py", "self.gamma * branch)", "branch)", GRID),
    Mutant(
        "choices are rewarded for the past",
        "train/objective/terms.py",
        "advantage.flip(1).cumsum(1).flip(1)",
        "advantage.cumsum(1)",
        TERMS,
    ),
    Mutant(
        "the baseline is forgotten",
        "train/objective/terms.py",
        "(log_likelihood - baseline) * real",
        "log_likelihood * real",
        TERMS,
    ),
    Mutant(
        "input feeding feeds nothing",
        "model/recurrent_decoders.py",
        "self.cell(gate, out, cell)",
        "self.cell(gate, None, cell)",
        RNN,
    ),
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
        "a repeated batch moves the statistics",
        "train/update.py",
        "with restore_buffers_after_block(self.objective), self.strategy.make_pass_context():",
        "with self.strategy.make_pass_context():",
        SHARDS,
    ),
    Mutant(
        "a repeated batch has a gradient",
        "train/update.py",
        "self._compute_loss(batch, optimizer_name).total * 0",
        "self._compute_loss(batch, optimizer_name).total",
        SHARDS,
    ),
    Mutant(
        "shards start from other weights than those saved",
        "train/sharded.py",
        "trained[name].copy_(_shard_tensor_like(value, trained[name]))",
        "pass",
        SHARDS,
    ),
    Mutant(
        "events of before a kill are kept",
        "train/tensorboard.py",
        "path.unlink()",
        "pass",
        ("tests/test_train_tensorboard.py", "twice"),
    ),
    Mutant(
        "a saved optimizer is believed",
        "train/state_check.py",
        '_check_optimizer_states(state["optimizer"], optimizers, state["standing"]["step"])',
        "pass",
        SAVED,
    ),
    Mutant(
        "two trainings share a directory",
        "task/directory_lock.py",
        "return error.errno in UNSUPPORTED",
        "return True",
        LOCKED,
    ),
    Mutant(
        "only the number of lines is compared",
        "task/resume_checks.py",
        "if now[part] != before.get(part)",
        'if now[part]["lines"] != before.get(part, {}).get("lines")',
        ORIGIN,
    ),
    Mutant(
        "any tokenizer will do",
        "task/label_check.py",
        "if path.stem in label and",
        "if path.name in label and",
        ORIGIN,
    ),
    Mutant(
        "weights that are not finite may be the best",
        "train/validation.py",
        "return score if is_usable else math.nan",
        "return score",
        ("tests/test_train_run.py", "not_finite"),
    ),
    Mutant(
        "a rank is believed without a launcher",
        "train/ranks.py",
        "if world > 1:",
        'if "RANK" in os.environ:',
        RANKS,
    ),
    Mutant(
        "to_empty loses the table of positions",
        "model/positions.py",
        "# to_empty calls this\n        self.reset_parameters()",
        "# to_empty calls this",
        MODELS_MADE_ELSEWHERE,
    ),
    Mutant(
        "to_empty makes two weights of one",
        "model/weight_tying.py",
        "# to_empty separates tied weights\n        self.tie_weights()",
        "# to_empty separates tied weights",
        MODELS_MADE_ELSEWHERE,
    ),
    Mutant(
        "the mean over tokens counts padding",
        "model/pooling.py",
        "total / keep.sum(1, keepdim=True).clamp_min(1)",
        "total / keep.shape[1]",
        MODELS,
    ),
    Mutant(
        "padded embeddings reach the layers",
        "model/encoder.py",
        "x = masks.zero_keys(x, keep)  #",
        "x = x  #",
        MODELS,
    ),
    Mutant(
        "an encoder attends to padding",
        "model/encoder.py",
        "Attended(self.attention(read, keep=keep), None)",
        "Attended(self.attention(read), None)",
        MODELS,
    ),
    Mutant(
        "a convolution sees one position of the future",
        "model/mixers.py",
        "F.pad(self._gate(x), (self.past, 0))",
        "F.pad(self._gate(x), (self.past - 1, 1))",
        MODELS,
    ),
    Mutant(
        "positions start again in every piece",
        "model/language.py",
        "self._embed(tokens, state.position)",
        "self._embed(tokens, 0)",
        MODELS,
    ),
    Mutant(
        "padding is a sentence",
        "model/hierarchical.py",
        "self.sentences(vectors, is_sentence, capture)",
        "self.sentences(vectors, is_encoded | True, capture)",
        LEVELS,
    ),
    Mutant(
        "a sentence is read with its padding",
        "model/hierarchical.py",
        "pooled = self.pool(hidden, keep)",
        "pooled = self.pool(hidden, keep | True)",
        LEVELS,
    ),
    Mutant(
        "weights mean the same for any vocabulary",
        "task/initial_weights.py",
        "if wanted != present:",
        "if wanted == present:",
        INITIAL,
    ),
    Mutant(
        "an output layer serves other classes",
        "task/classify/task.py",
        'return ("",) if has_same_output',
        'return ("",) if not has_same_output',
        INITIAL,
    ),
    Mutant(
        "a training resumes from any run",
        "task/initial_weights.py",
        'read_weights_label(weights).get("weights") == record.weights',
        "True",
        INITIAL,
    ),
    Mutant(
        "the trained model learns too",
        "train/objective/transfer.py",
        "trained.requires_grad_(False).eval()",
        "trained.train()",
        TRANSFER,
    ),
    Mutant(
        "padding is matched",
        "train/objective/transfer.py",
        "out, expected = out.float()[queries], expected.float()[queries]",
        "out, expected = out.float(), expected.float()",
        TRANSFER,
    ),
    Mutant(
        "the embeddings learn fastest",
        "train/optimizers.py",
        "range(len(groups), 0, -1)",
        "range(1, len(groups) + 1)",
        LAYERS,
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
        "ImageOps.exif_transpose(image)",
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
        ("tests/test_task_caption.py", "boxes_move"),
    ),
    Mutant(
        "pictures whose caption names a side are mirrored",
        "task/caption/batches.py",
        "change._replace(is_mirrored=False) if names_side else change",
        "change",
        ("tests/test_task_caption.py", "names_a_side"),
    ),
    Mutant(
        "the cells of a CNN divide the picture evenly",
        "task/caption/grounding.py",
        "step * np.arange(count) + 0.5",
        "step * (np.arange(count) + 0.5)",
        ("tests/test_task_caption.py", "centre_of_a_cell"),
    ),
    Mutant(
        "an object that left the picture still has a target",
        "task/caption/grounding.py",
        "None if n is None else places.get(n)",
        "None if n is None else places.get(n, 0)",
        ("tests/test_task_caption.py", "targets_of_the_attention"),
    ),
    Mutant(
        "a film strip divides the picture evenly",
        "view/film.py",
        "np.interp(places[1], film.columns, row)",
        "np.interp(places[1], (np.arange(len(row)) + 0.5) / len(row), row)",
        ("tests/test_view_film.py", "lie_where"),
    ),
)
