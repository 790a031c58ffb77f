// The structures that Python fills in: sizes, strides and pointers, without any type of torch.  layout.h lists their
// fields for library.py, which checks its own structures against the list.
#pragma once
#include <cstdint>

namespace qkv {

enum Map : int32_t { GAUSSIAN = 0, ARCCOS = 1, FAVOR = 2, ELU = 3 };

// A tensor [B,H,N,width] whose last dimension is contiguous: float32, or bfloat16 where the call says so.  The strides
// of the other dimensions count elements.
struct StridedTensor {
  void* data;
  int64_t batch_stride, head_stride, position_stride;
};

// One call of linear attention.  Tensors without strides are contiguous float32; a null pointer means that there is
// none.
struct Call {
  int64_t batch, heads, queries, keys, key_width, value_width, features;
  int32_t map, unit_length, causal, is_bfloat16, has_key_weights, threads;
  float floor, squared_length_factor;    // a FAVOR+ key's log weight is lowered by the factor times its squared length
  StridedTensor q, k, v, out;            // [B,H,T,D], [B,H,S,D], [B,H,S,E], [B,H,T,E]
  const float* projection;               // [H,R,D], bandwidth and temperature included
  const uint8_t* keep;                   // [B,S]
  const float *log_weights, *log_decay;  // [B,H,S]
  const float *initial_feature_sums, *initial_plain_sums, *initial_log_scale;  // [B,H,F,E+1], [B,H,1,E+2], [B,H,1,1]
  float *denominators, *weight_sums, *squared_weight_sums, *max_log_weights;   // [B,H,T], for the backward pass
  float *final_feature_sums, *final_plain_sums, *final_log_scale;              // the state after the last key
  // Used by the backward pass only.
  StridedTensor grad_out, grad_q, grad_k, grad_v;
  const float *grad_final_feature_sums, *grad_final_plain_sums;
  float* grad_projection;                    // [B,H,R,D]
  float *grad_log_weights, *grad_log_decay;  // [B,H,S]
  float *grad_initial_feature_sums, *grad_initial_plain_sums;
};

// out = x @ weight^T + bias for few rows x; contiguous float32, no bias if it is null.
struct SmallLinear {
  int64_t rows, out_features, in_features, threads;
  const float *x, *weight, *bias;  // [rows, in_features], [out_features, in_features], [out_features]
  float* out;                      // [rows, out_features]
};

// A decoding step of a whole layer: project x to queries and to keys and values side by side, add the keys to the
// state, read it, and project the averages.  `attention` has sizes, state and map; the pointers between the parts are
// set inside.
struct LayerStep {
  SmallLinear to_query, to_key_value, to_out;
  Call attention;
};

}  // namespace qkv
