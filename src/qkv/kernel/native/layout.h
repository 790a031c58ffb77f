// Name, offset and size of every field of the structures in call.h and additive.h.  library.py compares them with its
// own when it loads the library, so that a library built from other sources is declined and not called.
#pragma once
#include <cstddef>

#include "additive.h"
#include "call.h"

namespace qkv {

// One field; an empty field name stands for the structure itself.
struct FieldLayout {
  const char *structure, *field;
  int64_t offset, size;
};

#define QKV_STRUCT(S) {#S, "", 0, int64_t(sizeof(S))}
#define QKV_FIELD(S, F) {#S, #F, int64_t(offsetof(S, F)), int64_t(sizeof(S::F))}

// Ends with a null name.
constexpr FieldLayout LAYOUT[] = {
    QKV_STRUCT(StridedTensor),
    QKV_FIELD(StridedTensor, data),
    QKV_FIELD(StridedTensor, batch_stride),
    QKV_FIELD(StridedTensor, head_stride),
    QKV_FIELD(StridedTensor, position_stride),
    QKV_STRUCT(Call),
    QKV_FIELD(Call, batch),
    QKV_FIELD(Call, heads),
    QKV_FIELD(Call, queries),
    QKV_FIELD(Call, keys),
    QKV_FIELD(Call, key_width),
    QKV_FIELD(Call, value_width),
    QKV_FIELD(Call, features),
    QKV_FIELD(Call, map),
    QKV_FIELD(Call, unit_length),
    QKV_FIELD(Call, causal),
    QKV_FIELD(Call, is_bfloat16),
    QKV_FIELD(Call, has_key_weights),
    QKV_FIELD(Call, threads),
    QKV_FIELD(Call, floor),
    QKV_FIELD(Call, squared_length_factor),
    QKV_FIELD(Call, q),
    QKV_FIELD(Call, k),
    QKV_FIELD(Call, v),
    QKV_FIELD(Call, out),
    QKV_FIELD(Call, projection),
    QKV_FIELD(Call, keep),
    QKV_FIELD(Call, log_weights),
    QKV_FIELD(Call, log_decay),
    QKV_FIELD(Call, initial_feature_sums),
    QKV_FIELD(Call, initial_plain_sums),
    QKV_FIELD(Call, initial_log_scale),
    QKV_FIELD(Call, denominators),
    QKV_FIELD(Call, weight_sums),
    QKV_FIELD(Call, squared_weight_sums),
    QKV_FIELD(Call, max_log_weights),
    QKV_FIELD(Call, final_feature_sums),
    QKV_FIELD(Call, final_plain_sums),
    QKV_FIELD(Call, final_log_scale),
    QKV_FIELD(Call, grad_out),
    QKV_FIELD(Call, grad_q),
    QKV_FIELD(Call, grad_k),
    QKV_FIELD(Call, grad_v),
    QKV_FIELD(Call, grad_final_feature_sums),
    QKV_FIELD(Call, grad_final_plain_sums),
    QKV_FIELD(Call, grad_projection),
    QKV_FIELD(Call, grad_log_weights),
    QKV_FIELD(Call, grad_log_decay),
    QKV_FIELD(Call, grad_initial_feature_sums),
    QKV_FIELD(Call, grad_initial_plain_sums),
    QKV_STRUCT(SmallLinear),
    QKV_FIELD(SmallLinear, rows),
    QKV_FIELD(SmallLinear, out_features),
    QKV_FIELD(SmallLinear, in_features),
    QKV_FIELD(SmallLinear, threads),
    QKV_FIELD(SmallLinear, x),
    QKV_FIELD(SmallLinear, weight),
    QKV_FIELD(SmallLinear, bias),
    QKV_FIELD(SmallLinear, out),
    QKV_STRUCT(LayerStep),
    QKV_FIELD(LayerStep, to_query),
    QKV_FIELD(LayerStep, to_key_value),
    QKV_FIELD(LayerStep, to_out),
    QKV_FIELD(LayerStep, attention),
    QKV_STRUCT(AdditiveScore),
    QKV_FIELD(AdditiveScore, batch),
    QKV_FIELD(AdditiveScore, heads),
    QKV_FIELD(AdditiveScore, queries),
    QKV_FIELD(AdditiveScore, keys),
    QKV_FIELD(AdditiveScore, width),
    QKV_FIELD(AdditiveScore, threads),
    QKV_FIELD(AdditiveScore, q),
    QKV_FIELD(AdditiveScore, k),
    QKV_FIELD(AdditiveScore, v),
    QKV_FIELD(AdditiveScore, scores),
    QKV_FIELD(AdditiveScore, grad_scores),
    QKV_FIELD(AdditiveScore, grad_q),
    QKV_FIELD(AdditiveScore, grad_k),
    QKV_FIELD(AdditiveScore, grad_v),
    {nullptr, nullptr, 0, 0},
};

#undef QKV_STRUCT
#undef QKV_FIELD

}  // namespace qkv
