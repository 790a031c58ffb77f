"""Known defects of the native engine, and the tests that should detect each."""

from mutants import Mutant

ENGINE = ("tests/test_native.py tests/test_native_gradient.py", "")
LARGE = ("tests/test_native_limits.py", "")
SANITIZED = ("tests/test_native_sanitizers.py -m slow", "segments and avx512")
ADDITIVE = ("tests/test_native_additive.py", "")
NATIVE_MUTANTS = (
    Mutant(
        "queries see later keys of their chunk",
        "kernel/native/key_weights.h",
        "? broadcast(is_real[s]) : Floats{}",
        "? broadcast(is_real[s]) : broadcast(is_real[s])",
        ENGINE,
    ),
    Mutant(
        "padding is summed",
        "kernel/native/chunks.h",
        "const bool real = s < tokens && (!keep || keep[s]);",
        "const bool real = s < tokens;",
        ENGINE,
    ),
    Mutant(
        "the gate does not decay the sums",
        "kernel/native/forward.h",
        "if (call_.has_key_weights) tile.scale(final_carry_factor);",
        "",
        ENGINE,
    ),
    Mutant(
        "no deficit is filled",
        "kernel/native/forward.h",
        "? squared_weight_sum : 1) - denominator, 0.0f);",
        "? squared_weight_sum : 1) * 0, 0.0f);",
        ENGINE,
    ),
    Mutant(
        "the weight sum lacks the earlier keys",
        "kernel/native/forward.h",
        "state.weight_sum = state.weight_sum * final_carry_factor + sum;",
        "state.weight_sum = sum;",
        ENGINE,
    ),
    Mutant(
        "the second panel is the first",
        "kernel/native/tile.h",
        "return vector / PANEL_VECTORS * panel_stride +",
        "return",
        ENGINE,
    ),
    Mutant(
        "a block of features discards the blocks before it",
        "kernel/native/forward.h",
        "if (rows.begin == 0) tile.clear();",
        "if (true) tile.clear();",
        ENGINE,
    ),
    Mutant(
        "a layer step reads keys as values",
        "kernel/native/layer_step.h",
        "float* values = to_key_value.out + call.heads * call.key_width;",
        "float* values = to_key_value.out;",
        ("tests/test_native_layer_step.py", ""),
    ),
    Mutant(
        "a thread does not help with the jobs of others",
        "kernel/native/parallel_jobs.h",
        "for (int i = 0; i < threads; ++i) {",
        "for (int i = 0; i < 1; ++i) {",
        ("tests/test_native_layer_step.py", ""),
    ),
    Mutant(
        "the end of a row is not read",
        "kernel/native/memory.h",
        "for (; i < width; ++i) target[i] = source[i];",
        "for (; i < width; ++i) target[i] = 0;",
        ENGINE,
    ),
    Mutant(
        "the states of segments are not combined",
        "kernel/native/engine.cpp",
        "if (i % segments > 0) combine_states(",
        "if (false) combine_states(",
        ENGINE,
    ),
    Mutant(
        "a decoding step does not decay",
        "kernel/native/token_steps.h",
        "log_scale + (call_.log_decay ? call_.log_decay[index] : 0)",
        "log_scale",
        ENGINE,
    ),
    Mutant(
        "the gradient of the final denominator sums is lost",
        "kernel/native/backward.h",
        "grad_state.denominator_sums[s_.phi_row(f)] = source[s_.value];",
        "",
        ENGINE,
    ),
    Mutant(
        "the gradient of a unit vector keeps the component along it",
        "kernel/native/feature_gradients.h",
        "if (call_.unit_length) backpropagate_unit_length(chunk);",
        "",
        ENGINE,
    ),
    Mutant(
        "a map without a projection writes a gradient of it",
        "kernel/native/backward.h",
        "if (call_.grad_projection) features.add_grad_projection(grad);",
        "features.add_grad_projection(grad);",
        SANITIZED,
    ),
    Mutant(
        "a large angle is reduced as a small one",
        "kernel/native/features.h",
        "return !(squared_length * max_squared_norm_ <= MAX_FAST_ANGLE * MAX_FAST_ANGLE);",
        "return false;",
        LARGE,
    ),
    Mutant(
        "a step reduces a large angle as a small one",
        "kernel/native/token_steps.h",
        "if (needs_exact) sin_cos_any_angle",
        "if (false) sin_cos_any_angle",
        LARGE,
    ),
    Mutant(
        "exp hides NaN",
        "kernel/native/vector.h",
        "x = vector_min(broadcast(88.0f), vector_max(broadcast(-87.0f), x));",
        "x = vector_min(vector_max(x, broadcast(-87.0f)), broadcast(88.0f));",
        LARGE,
    ),
    Mutant(
        "gradients that are differentiated again come from the engine",
        "kernel/native/ops.py",
        "if double_backward.is_backward_recorded_or_transformed():",
        "if False:",
        ("tests/test_native_twice.py", ""),
    ),
    Mutant(
        "tensors that do not fit together are read",
        "kernel/native/ops.py",
        "    _check_shapes_and_dtypes_fit(inputs, rows, features, options.causal)\n",
        "",
        LARGE,
    ),
    Mutant(
        "additive scores: a part of the queries overwrites the key gradients of the others",
        "kernel/native/additive.cpp",
        "grad_k[a] = (part ? grad_k[a] : 0.0f) +",
        "grad_k[a] =",
        ADDITIVE,
    ),
)
