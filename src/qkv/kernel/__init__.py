"""How is the average computed?  Exactly, from weights, or through a feature map that never forms them.

A kernel part (`Softmax`, `RFA`, `Favor`, `Elu`) builds a core.  A core is a module with `forward`, `attend`,
`start`, `extend`, `read` and `explain`; there are two, `exact.Exact` and `linear.Linear`.

For both:
    core                the base class of the evaluators
    masking             the masks, bias and gate of one call
    memory_pool         memory of large results on a CPU, kept for reuse
    reset_parameters    initialises the parameters of the modules inside a module

Exact attention, in the order in which to read it:
    softmax             the part
    exact               the evaluator, which chooses the route; start here
    fused_attention     torch's scaled_dot_product_attention, for softmax of a dot product
    bands               windows: blocks of queries, each with the few keys that its windows reach
    tiles               neighbourhoods: tiles of a grid, each with the few keys around it
    query_blocks        all pairs, in blocks of queries of bounded memory
    exact_routes        says in words which route runs
    exact_state, cache  the decode state: keys and values that grow in place

Linear attention, in the order in which to read it:
    rfa, favor, elu     the parts, each with its feature map
    linear              the evaluator, which chooses the route; start here
    feature_map         what a feature map provides
    projections         the random projections of `rfa` and `favor`
    sums                the sums over keys that replace attention weights
    key_weights         weights of keys within these sums: factors of a map, decay by a gate
    causal_average      the causal algorithm of one chunk, with a drawing
    chunks              a sequence chunk by chunk, recomputed in the backward pass
    linear_operators    the route with torch operators: maps, sums and averages of a sequence
    linear_state        the decode state
    backends            chooses between `native` (C++, CPU), `triton` (CUDA) and torch operators
    double_backward     gradients of gradients of the backends
"""

from .elu import Elu as Elu
from .favor import Favor as Favor
from .rfa import RFA as RFA
from .softmax import Softmax as Softmax

KERNELS = {part.name: part for part in (Softmax, RFA, Favor, Elu)}
