"""The recurrent encoder–decoder, with attention (Bahdanau et al. 2015) and without (Cho et al. 2014).

    h_j = [h_fwd_j; h_bwd_j]                                 annotations of the source
    c_i = attention(s_{i-1}, h)                              or one fixed summary of the source for every i
    s_i = cell([E y_{i-1}; c_i], s_{i-1})                    s_0 from the backward state at word 1
    t_i = maxout([s_i; E y_{i-1}; c_i]);   logits_i = O t_i

The attention's query is the previous state, as in the paper.  The read-out takes the new state s_i, as Cho
et al. do (Bahdanau's appendix takes s_{i-1}); the gates are those of torch.nn.GRU, not of the appendix.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PlainSerializer, PlainValidator, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from qkv.attention import Attention
from qkv.errors import BadMask, BadRecipe
from qkv.model.stepper import Step
from qkv.score import Additive
from qkv.shapes import Attended
from qkv.spec import AttentionSpec
from qkv.strict import Strict
from qkv.symbols import PAD


def _read_attention(written: Any) -> AttentionSpec | None:
    if written is None or isinstance(written, AttentionSpec):
        return written
    if isinstance(written, dict):
        return AttentionSpec.from_dict(written)
    raise BadRecipe(f"expected an attention like {{score: additive}}, or null for none, got {written!r}")


class RNNConfig(Strict):
    """A recurrent translator.

    attention: its parts; None is the encoder–decoder of 2014, which sees the source through one fixed vector.
        The model sets its widths.  A score that learns (additive) compares state and annotations as they are;
        everything else (scaled dot product, feature maps, several heads) gets projections to one width.
    cell: of encoder and decoder.  embedding: width of word vectors and of the read-out.
    hidden: width of the decoder's state and of each direction of the encoder.  layers: of the encoder.
    dropout: on word vectors, between encoder layers and on the read-out.
    tie: the output layer shares its weight with the target's word vectors.
    """

    kind: Literal["rnn"] = "rnn"
    attention: Annotated[
        AttentionSpec | None,
        PlainValidator(_read_attention),
        PlainSerializer(lambda spec: None if spec is None else spec.to_dict()),
    ] = AttentionSpec(score=Additive())
    cell: Literal["gru", "lstm"] = "gru"
    embedding: PositiveInt = 256
    hidden: PositiveInt = 256
    layers: PositiveInt = 1
    dropout: float = Field(default=0.3, ge=0, lt=1)
    tie: bool = False

    def fitted_attention(self) -> AttentionSpec | None:
        """The attention with the widths of this model: query [.., hidden], memory [.., 2 hidden]."""
        spec = self.attention
        if spec is None:
            return None
        learns = getattr(spec.score, "learns", False)
        raw = learns and spec.heads == 1 and spec.kv_heads in (None, 1)
        if not spec.project and not raw:
            raise BadRecipe(
                f"attention.project=False needs a score that learns, such as additive, got {spec.score!r}: "
                "decoder state and annotations differ in width. Leave project out"
            )
        return replace(spec, d_model=self.hidden, d_memory=2 * self.hidden, project=not raw)

    @model_validator(mode="after")
    def _fits(self) -> "RNNConfig":
        if self.attention is None:
            return self
        if self.attention.d_model is not None or self.attention.d_memory is not None:
            raise BadRecipe("d_model and d_memory follow from hidden: leave them out and set hidden")
        if self.attention.causal:
            raise BadRecipe("causal has no meaning here: the source is known as a whole. Leave it out")
        self.fitted_attention()
        return self


class DecoderState(NamedTuple):
    """Between two steps: the cell's tensors [B,n], its own state first, and what the source left behind."""

    cell: tuple[Tensor, ...]
    source: Any


class _GRUGates(torch.autograd.Function):
    """s' = (1 - z) ∘ tanh(a_n + r ∘ b_n) + z ∘ s with [r; z] = sigmoid(a_rz + b_rz), as in torch.nn.GRU.

    One node instead of a dozen: at these sizes the bookkeeping costs more than the arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
        n = s.shape[-1]
        rz = (a[..., : 2 * n] + b[..., : 2 * n]).sigmoid_()
        r, z = rz.chunk(2, -1)
        b_n = b[..., 2 * n :]
        new = torch.addcmul(a[..., 2 * n :], r, b_n).tanh_()
        ctx.save_for_backward(rz, new, b_n, s)
        return torch.lerp(new, s, z)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        rz, new, b_n, s = ctx.saved_tensors
        n = s.shape[-1]
        r, z = rz.chunk(2, -1)
        by_s = grad * z
        d_a = grad.new_empty(*grad.shape[:-1], 3 * n)
        d_new = torch.mul(grad - by_s, 1 - new * new, out=d_a[..., 2 * n :])
        torch.mul(d_new, b_n, out=d_a[..., :n])
        torch.mul(grad, s - new, out=d_a[..., n : 2 * n])
        d_a[..., : 2 * n] *= rz * (1 - rz)
        d_b = d_a.clone()
        d_b[..., 2 * n :] *= r
        return d_a, d_b, by_s


class Cell(nn.Module):
    """A GRU or LSTM that reads [word vector; context]; the words' share is computed ahead."""

    def __init__(self, kind: str, word: int, context: int, hidden: int) -> None:
        super().__init__()
        self.kind = kind
        gates = {"gru": 3, "lstm": 4}[kind] * hidden
        self.from_word = nn.Linear(word, gates)
        self.from_context = nn.Linear(context, gates, bias=False)
        self.from_state = nn.Linear(hidden, gates)

    def start(self, s: Float[Tensor, "B n"]) -> tuple[Tensor, ...]:
        """The cell's tensors whose state is s; an LSTM's memory is empty."""
        return (s,) if self.kind == "gru" else (s, torch.zeros_like(s))

    def forward(self, gates: Tensor, context: Tensor | None, last: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The cell's tensors after a step.  gates [B,G]: the word's share, and a fixed context's."""
        s = last[0]
        a = gates if context is None else gates + self.from_context(context)
        b = self.from_state(s)
        if self.kind == "gru":
            return (_GRUGates.apply(a.to(s.dtype), b.to(s.dtype), s),)
        into, keep, new, out = (a + b).to(s.dtype).chunk(4, -1)
        memory = keep.sigmoid() * last[1] + into.sigmoid() * new.tanh()
        return out.sigmoid() * memory.tanh(), memory


class RNNTranslator(nn.Module):
    """Encoder, attention, recurrent decoder and read-out; the equations are at the top of this file."""

    def __init__(self, config: RNNConfig, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.config = config
        e, n, spec = config.embedding, config.hidden, config.fitted_attention()
        self.source_words, self.target_words = nn.Embedding(source_vocab, e), nn.Embedding(target_vocab, e)
        self.dropout = nn.Dropout(config.dropout)
        between = config.dropout if config.layers > 1 else 0.0
        network = {"gru": nn.GRU, "lstm": nn.LSTM}[config.cell]
        self.encoder = network(e, n, config.layers, batch_first=True, dropout=between, bidirectional=True)
        self.attention = None if spec is None else Attention.from_spec(spec)
        self.summary = nn.Linear(2 * n, n) if spec is None else nn.Identity()
        context = 2 * n if spec is not None and not spec.project else n
        self.first_state = nn.Linear(n, n)
        self.cell = Cell(config.cell, e, context, n)
        self.readout = nn.Linear(n + e + context, 2 * e)
        self.output = nn.Linear(e, target_vocab)
        _initialise(self)
        if config.tie:
            self.output.weight = self.target_words.weight

    def forward(
        self, source: Int[Tensor, "B S"], source_keep: Bool[Tensor, "B S"], target_in: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T e"]:
        """Teacher forcing: the read-outs t_i after target_in (BOS first); `output` makes them logits."""
        return self._decode(target_in, self.start(source, source_keep))[0]

    def weights(
        self, source: Int[Tensor, "B S"], source_keep: Bool[Tensor, "B S"], target_in: Int[Tensor, "B T"]
    ) -> dict[str, Tensor]:
        """{"cross.0": [B,H,T,S]}, where the decoder looks under teacher forcing; {} without attention."""
        return _shown(self._decode(target_in, self.start(source, source_keep, capture=True))[1])

    def start(
        self, source: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"], *, capture: bool = False
    ) -> DecoderState:
        """Encode the source, padded on the right; the key side of the attention is computed here, once."""
        annotations, last_forward, last_backward = self._encode(source, keep)
        if self.attention is None:
            summary = self.summary(torch.cat([last_forward, last_backward], -1)).tanh()
            return DecoderState(self.cell.start(self.first_state(summary).tanh()), summary)
        memory = self.attention.start(annotations, keep=keep, remember=capture)
        return DecoderState(self.cell.start(self.first_state(last_backward).tanh()), memory)

    def step(self, tokens: Int[Tensor, "B"], state: DecoderState, *, capture: bool = False) -> Step:
        """Score the next word, in float32 at least; weights {"cross.0": [B,H,S]}."""
        hidden, looks, state = self._decode(tokens[:, None], state)
        logits = self.output(hidden[:, 0])
        weights = {name: shown[:, :, 0] for name, shown in _shown(looks).items()} if capture else {}
        return Step(logits.to(torch.promote_types(logits.dtype, torch.float32)), state, weights)

    def encoder_weights(self, source: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"]) -> dict[str, Tensor]:
        """{}: the encoder is recurrent, it attends to nothing."""
        return {}

    def attentions(self) -> dict[str, Attention]:
        """Every attention by the name of its weights."""
        return {} if self.attention is None else {"cross.0": self.attention}

    def _encode(self, source: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if bool((keep[:, 1:] & ~keep[:, :-1]).any()):
            raise BadMask("source_keep has a real token after padding: pad sources on the right only")
        words = self.dropout(self.source_words(source.masked_fill(~keep, PAD)))
        lengths = keep.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        out, last = self.encoder(packed)
        last = last[0] if isinstance(last, tuple) else last
        annotations, _ = pad_packed_sequence(out, batch_first=True, total_length=source.shape[1])
        if torch.is_autocast_enabled(source.device.type):  # else every step of the decoder casts them anew
            annotations = annotations.to(torch.get_autocast_dtype(source.device.type))
        return annotations, last[-2], last[-1]

    def _decode(self, target_in: Tensor, state: DecoderState) -> tuple[Tensor, list[Attended], DecoderState]:
        words = self.dropout(self.target_words(target_in))
        gates, cell, context = self.cell.from_word(words), state.cell, None
        if self.attention is None:
            gates = gates + self.cell.from_context(state.source)[:, None]
        states, looks = [], []
        for gate in gates.unbind(1):
            if self.attention is not None:
                looks.append(self.attention.attend_step(cell[0], state.source)[0])
                context = looks[-1].out
            cell = self.cell(gate, context, cell)
            states.append(cell[0])
        contexts = [look.out for look in looks] or [state.source] * len(states)
        known = torch.cat([torch.stack(states, 1), words, torch.stack(contexts, 1)], -1)
        hidden = torch.maximum(*self.readout(known).chunk(2, -1))
        return self.dropout(hidden), looks, DecoderState(cell, state.source)


def _shown(looks: list[Attended]) -> dict[str, Tensor]:
    shown = [look.weights for look in looks if look.weights is not None]
    return {"cross.0": torch.cat(shown, 2)} if shown else {}


def _initialise(model: RNNTranslator) -> None:
    """Orthogonal recurrent matrices, Xavier for the others; an LSTM starts by remembering."""
    for name, weight in model.named_parameters():
        if name.startswith("attention."):
            continue
        if "words" in name:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        elif weight.dim() == 1:
            nn.init.zeros_(weight)
        else:
            recurrent = "weight_hh" in name or "from_state" in name
            for gate in weight.data.split(model.config.hidden) if recurrent else (weight.data,):
                (nn.init.orthogonal_ if recurrent else nn.init.xavier_uniform_)(gate)
    if model.config.cell == "lstm":
        biases = [bias for name, bias in model.encoder.named_parameters() if "bias_ih" in name]
        for bias in (*biases, model.cell.from_word.bias):
            bias.data[model.config.hidden : 2 * model.config.hidden] = 1.0
