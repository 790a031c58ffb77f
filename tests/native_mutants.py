"""Known defects of the native engine, and the tests that should see each."""

from mutants import Mutant

ENGINE = ("tests/test_native.py tests/test_native_gradient.py", "")
LARGE = ("tests/test_native_limits.py", "")
SANITIZED = ("tests/test_native_sanitizers.py -m slow", "parts and avx512")
ADDITIVE = ("tests/test_native_additive.py", "")
NATIVE_MUTANTS = (
    Mutant(
        "keys of the chunk are seen before their time",
        "kernel/native/chunks.h",
        "? all(kept[s]) : Floats{}",
        "? all(kept[s]) : all(kept[s])",
        ENGINE,
    ),
    Mutant(
        "padding is summed",
        "kernel/native/chunks.h",
        "const bool real = s < many && (!keep || keep[s]);",
        "const bool real = s < many;",
        ENGINE,
    ),
    Mutant(
        "the gate fades nothing that was summed",
        "kernel/native/forward.h",
        "if (call_.weighed) tile.scale(rest_at_end);",
        "",
        ENGINE,
    ),
    Mutant(
        "no gap is filled",
        "kernel/native/forward.h",
        "return std::max(floor * std::sqrt(squares > 0 ? squares : 1) - total, 0.0f);",
        "return 0.0f;",
        ENGINE,
    ),
    Mutant(
        "the count forgets what came before",
        "kernel/native/forward.h",
        "state.count = state.count * rest_at_end + sum;",
        "state.count = sum;",
        ENGINE,
    ),
    Mutant(
        "the second panel is the first",
        "kernel/native/tile.h",
        "return vector / WIDE * apart +",
        "return",
        ENGINE,
    ),
    Mutant(
        "a block of features forgets those before it",
        "kernel/native/forward.h",
        "if (part.begin == 0) tile.clear();",
        "if (true) tile.clear();",
        ENGINE,
    ),
    Mutant(
        "a whole step takes keys for values",
        "kernel/native/whole.h",
        "rows_of(keys.out + call.heads * call.width,",
        "rows_of(keys.out,",
        ("tests/test_native_whole.py", ""),
    ),
    Mutant(
        "a thread leaves the jobs of others undone",
        "kernel/native/jobs.h",
        "for (int i = 0; i < threads; ++i) {",
        "for (int i = 0; i < 1; ++i) {",
        ("tests/test_native_whole.py", ""),
    ),
    Mutant(
        "a row's tail is not read",
        "kernel/native/rows.h",
        "for (; i < width; ++i) to[i] = from[i];",
        "for (; i < width; ++i) to[i] = 0;",
        ENGINE,
    ),
    Mutant(
        "runs of a head do not follow one another",
        "kernel/native/engine.cpp",
        "if (i % parts > 0) follow(",
        "if (false) follow(",
        ENGINE,
    ),
    Mutant(
        "a decoding step does not fade",
        "kernel/native/step.h",
        "scale + (call_.decay ? call_.decay[at] : 0)",
        "scale",
        ENGINE,
    ),
    Mutant(
        "the gradient of the final sums of ones is lost",
        "kernel/native/backward.h",
        "back.ones[s_.row_of(f)] = from[s_.value];",
        "",
        ENGINE,
    ),
    Mutant(
        "the gradient of a unit vector keeps what lies along it",
        "kernel/native/features.h",
        "if (call_.unit) straighten(at);",
        "",
        ENGINE,
    ),
    Mutant(
        "a map without a matrix writes a gradient of it",
        "kernel/native/backward.h",
        "if (call_.grad_matrix) features.close(grad);",
        "features.close(grad);",
        SANITIZED,
    ),
    Mutant(
        "an angle of any size is reduced as a small one",
        "kernel/native/features.h",
        "return !(square * longest_ <= LARGEST_ANGLE * LARGEST_ANGLE);",
        "return false;",
        LARGE,
    ),
    Mutant(
        "a step reduces an angle of any size as a small one",
        "kernel/native/step.h",
        "if (large) sin_cos_of_any",
        "if (false) sin_cos_of_any",
        LARGE,
    ),
    Mutant(
        "exp hides what is not a number",
        "kernel/native/vector.h",
        "x = lowest(all(88.0f), highest(all(-87.0f), x));",
        "x = lowest(highest(x, all(-87.0f)), all(88.0f));",
        LARGE,
    ),
    Mutant(
        "gradients that are differentiated again come from the engine",
        "kernel/native/ops.py",
        "if double_backward.needs_double_backward():",
        "if False:",
        ("tests/test_native_twice.py", ""),
    ),
    Mutant(
        "tensors that do not fit together are read",
        "kernel/native/ops.py",
        "    _check(tensors, sizes, causal)\n",
        "",
        LARGE,
    ),
    Mutant(
        "additive scores: a part of the queries overwrites what others gave the keys",
        "kernel/native/additive.cpp",
        "grad_k[a] = (part ? grad_k[a] : 0.0f) +",
        "grad_k[a] =",
        ADDITIVE,
    ),
)
