// One call of the additive score, as Python fills it in.
#pragma once
#include "call.h"

namespace qkv {

// scores[t, s] = v . tanh(q_t + k_s) of every row and head; all float32, tensors without strides contiguous.
struct Additive {
  int64_t batch, heads, queries, keys, width, threads;
  Rows q, k;           // [B,H,T,A], [B,H,S,A], projected
  const float* v;      // [H,A]
  float* scores;       // [B,H,T,S]
  // Backward only.
  const float* grad;   // [B,H,T,S]
  Rows grad_q, grad_k; // as q and k
  float* grad_v;       // [B,H,A]
};

}  // namespace qkv
