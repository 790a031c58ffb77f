// One call of the additive score, filled in by Python.
#pragma once
#include "call.h"

namespace qkv {

// scores[t, s] = v . tanh(q_t + k_s) for every batch row and head.  All tensors are float32; those without strides are
// contiguous.
struct AdditiveScore {
  int64_t batch, heads, queries, keys, width, threads;
  StridedTensor q, k;            // [B,H,T,A], [B,H,S,A], projected
  const float* v;                // [H,A]
  float* scores;                 // [B,H,T,S]
  // Used by the backward pass only.
  const float* grad_scores;      // [B,H,T,S]
  StridedTensor grad_q, grad_k;  // as q and k
  float* grad_v;                 // [B,H,A]
};

}  // namespace qkv
