"""The prose of docs/costs.md."""

INTRO = """\
# What a model costs

<!-- Written by `python docs/make_costs.py`; change that script or costs_prose.py, not this page. -->

`qkv cost RECIPE` (or a run) computes what a model costs before it is trained. Nothing is allocated and no
data is read: the model is built on torch's meta device. A model of GPT-3's size, 96 layers of 12,288, takes
4.8 seconds and 422 MB (two idle cores of an AMD EPYC CPU, 2026-11-30).

    qkv cost demo-rfa
    qkv cost lm-shakespeare-rfa --set model.max_length=16384 --length 1k,4k,16k
    qkv cost multi30k-en-fr-tiny --beam 5 --memory 16GB --json cost.json

It prints

- **parameters** by component, each with a closed formula such as `6 × 4·(512² + 512)`. A weight that two
  components share counts in the first one;
- **operations** of a forward pass and of a training step by component. A multiplication and an addition are
  two operations. They are those of the matrix products and convolutions of torch's plain operators. Pairs
  that a causal mask hides count as well. Code beside every part of attention states the same as a formula:
  `qkv.AttentionSpec(512, heads=8).count_operations(1000, 1000)`;
- **memory** of a training step: weights, gradients, the two moments of Adam, the tensors that the forward
  pass stores for the backward pass, and the largest sum at any time;
- **memory of decoding** for each hypothesis, and what every further token adds;
- **crossovers**: from which length on an attention has fewer operations, or a smaller decode state, than
  softmax over all keys;
- with `--precision bf16`, the memory under autocast, whatever the recipe says;
- with `--measure`, from which length on an attention is faster than softmax on this machine;
- with `--probe`, the speed of a minute of training on made-up data, with the device, threads and precision of
  the recipe, and how long the whole training takes;
- with `--memory 16GB`, the largest batch and the largest length whose training step fits;
- with `--png FILE` and two or more lengths, a picture of the operations of a training step over the length,
  beside those of the same model with softmax over all keys.

## Which attention to choose

- Compare operations first. Below the crossover, softmax is cheaper, and torch's fused operator does it
  without storing weights. Above it, a feature map pays more with every further token.
- For long generation look at the decode state: a cache grows with every token and every hypothesis, the
  sums of a feature map do not.
- A window costs about its width for every query. It needs no features, but it does not look further.
- Operations are not seconds: `--measure` finds the crossover in seconds, and
  `qkv bench sdpa rfa --lengths 512,2048,8192` measures any attentions side by side.
- If a step does not fit, the stored tensors are usually the largest part: halve the batch and double
  `batch.accumulate`.

## Runs side by side

`qkv compare RUN RUN...` puts trained runs of one task into one table: the scores on held-out data,
parameters, updates, seconds, speed, the memory of a training step, and the seconds until the monitored score
was as good as the best that all of them reached (or as `--reach SCORE`). Measures of attention that a
translator's validations record (entropy, diagonality, coverage) are means over the layers. `--markdown` and
`--json FILE` write the same, and `--png FILE` draws the learning curves.

    qkv compare runs/softmax runs/rfa-gate runs/rfa-gate-carry runs/lstm --markdown

| run | nll | perplexity | accuracy | word_perplexity | parameters | updates | seconds | tokens/s | memory | \
seconds to nll 4.933 |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
| runs/softmax | 4.933 | 138.9 | 0.2066 | 138.9 | 8,194,752 | 5,100 | 5,042 | 2,204 | 317 MiB | 5,042 |
| runs/rfa-gate | 4.806 | 122.3 | 0.2215 | 122.3 | 8,175,576 | 5,100 | 4,282 | 4,183 | 331 MiB | 3,365 |
| runs/rfa-gate-carry | 4.883 | 132 | 0.2193 | 132 | 8,175,576 | 5,100 | 5,523 | 3,723 | 331 MiB | 5,523 |
| runs/lstm | 4.731 | 113.4 | 0.2311 | 113.4 | 8,171,712 | 5,100 | 2,328 | 5,254 | 206 MiB | 1,421 |

These are language models of WikiText-2 that the recipes `lm-wikitext2-*` trained (one thread of an AMD EPYC
CPU that other work shared, 2026-11-30). What makes scores incomparable stands under the table: other data,
tokens or scoring. Here that is

    not the same: held-out text: separate segments of 128 tokens in runs/softmax, runs/rfa-gate, runs/lstm;
    state carried over the whole text, read 128 tokens at a time in runs/rfa-gate-carry

With `--test`, translators and classifiers of texts also answer the test data of their recipes, which must be
the same. BLEU is compared by sacrebleu's paired bootstrap, accuracy by the same method: 95 % intervals, and
the p-value of the difference to the first run.

`qkv train` draws the learning curve of its run as `curve.png` where matplotlib is installed (`[plot]`) and
there are two validations or more: at the end, and at validations, once a minute at the most. A failure to
draw never ends a training.

`qkv sweep` trains a recipe with every combination of some values, each with several seeds, and prints mean ±
standard deviation:

    qkv sweep recall-rfa --vary model.attention.kernel=softmax,rfa,elu --seeds 3

`--processes 2` trains two at the same time, each with its share of the CPU threads. Finished trainings are
kept. After Ctrl-C or a kill the same command goes on, and the table is the same; with more `--seeds` it adds
trainings.

Generated phrases, three models, three seeds each, three passes over 20,000 phrases: 13 minutes on two idle
cores of an AMD EPYC CPU (2026-11-30), with a kill after 150 seconds.

    RNN='{kind: rnn, attention: {score: additive}, embedding: 128, hidden: 160, dropout: 0.1}'
    SIZE='encoder_layers: 2, decoder_layers: 2, width: 128, heads: 4, feedforward: 256, dropout: 0.05'
    RFA='decoder: {kernel: {name: rfa, features: 32}}, cross: {kernel: {name: rfa, features: 64}}'
    qkv sweep demo-rnn --seeds 3 --set train.epochs=3 --set train.precision=auto \\
        --vary "model=$RNN,{kind: transformer, $SIZE},{kind: transformer, $SIZE, $RFA}"

| model | nll | BLEU | exact, % | seconds |
|---|--:|--:|--:|--:|
| RNN, additive attention | 0.0464 ± 0.0007 | 100 ± 0 | 100 ± 0 | 96 ± 8 |
| Transformer, softmax | 0.0752 ± 0.0009 | 94.0 ± 1.6 | 91.3 ± 1.5 | 65 ± 6 |
| Transformer, random features | 0.1077 ± 0.0027 | 91.8 ± 3.2 | 88.3 ± 3.1 | 89 ± 15 |

## What it leaves out

- Memory is that of tensors on a CPU. What malloc keeps of freed memory and temporary memory inside an
  operator are not in it. A process takes more: see [below](#computed-against-measured), and leave a margin
  when you use `--memory`. Under autocast a GRU stores up to 7 % more than is computed here.
- `nn.LSTM` on a CPU runs in oneDNN, which stores a workspace of its own. The stored bytes here are those of
  plain operators, and too small by that workspace.
- With `model.clusters` every token counts as if it needed the scores of all clusters: an upper bound.
- A recipe does not know the vocabulary and the classes before its data are read; the first lines say what
  is assumed. A run knows them.

"""

SCALING = """\
## Published models

Each is a configuration of a model of this library; parameters and operations are computed. `6·N·tokens` is
the usual estimate with all N parameters. Device-days are the exact operations divided by {utilisation:.0%}
of what the device is stated to do in matrix products
({devices}), next to what the papers report. These
30 % are an assumption for all models; a published number that is larger says that the training used less.
BERT's paper does not name the version of its TPUs; v2 is assumed here, and that is not verified.

"""

MEGATRON_NOTE = """
Tokens: Transformer 25,000 target tokens a step for 100,000 and 300,000 steps, counted in sentences of 32
tokens; BERT 1,000,000 steps of 256 rows, of 128 tokens in 90 % of the steps and of 512 in the others;
Megatron-LM 300,000 steps of 512 × 1,024; GPT-3 300 billion. For GPT-2 and Turing-NLG no source that was
found states tokens or training time. GPT-3's paper reports 3.14e23 operations, 6 for each parameter and
token, without attention's products of pairs. Megatron-LM's paper reports 2.10 days on 512 devices for each
epoch of 68,507 of its steps; all devices for all steps are computed from that. Its own measurement is
39·10¹²/s on one V100, which it calls 30 % of the peak.
"""

DEVICES = """\
The 125·10¹²/s of a V100 (half precision, tensor cores) and the 45·10¹²/s of a chip of TPU v2 (180·10¹²/s for
a card of four) were compared with public tables of devices, not with the vendors' data sheets.
"""

CHECKS = """\
Ten configurations of every family (`python docs/cost_checks.py`): parameters against those of the model,
operations of a training step against torch's `FlopCounterMode`, and stored bytes against those of a real
step. The last columns divide the computed peak by three measured ones of a real step with AdamW: what torch's
allocator had given at most, and what the process took ({smallest:.0f} to {largest:.0f} MB), with and without
`MALLOC_MMAP_THRESHOLD_=65536`. One thread on 2 cores of an AMD EPYC CPU that other work shared, 2026-11-30
and 2026-12-01.

The aim was a computed peak within 15 % of the allocator's. It is met in {near} of {all} configurations and
missed by the others, which have an LSTM: oneDNN asks for memory that it hardly touches. A process
takes up to {most:.1f} times what is computed, because glibc's malloc keeps freed blocks for later. With the
variable it returns large ones at once, and the process takes {returned_least:.2f} to {returned_most:.2f}
times what is computed; most in convolutions, which use temporary memory beside the allocator. The variable is
worth a try where memory is short; what it costs in time was not measured.
"""

CROSSOVERS = """
## Computed against measured crossovers

The length from which on a causal layer with projections has fewer operations than softmax (computed), and
from which on its forward pass is faster (`qkv cost --measure`: batch 1, float32; the median and the range of
{repetitions} measurements; `python docs/cost_crossovers.py` on 2 otherwise idle cores of an AMD EPYC CPU with
AVX-512, 2026-11-30). The aim was a factor of at most 1.5 between computed and measured length. It is met in
{near} of {all} rows and missed by {missed}, with at most {worst:.2f}.

| attention | width | heads | threads | computed | measured | factor |
|---|--:|--:|--:|--:|--:|--:|"""
