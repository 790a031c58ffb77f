"""Known defects of models, training and tasks of texts, and the tests that should see each."""

from mutants import Mutant

TERMS = ("tests/test_train_terms.py", "")
RNN = ("tests/test_model_seq2seq.py", "luong or feeding")
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
LEVELS = ("tests/test_model_hierarchical.py", "gru")

TASK_MUTANTS = (
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
)
