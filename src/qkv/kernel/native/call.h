// One call of the engine, as Python fills it in: sizes, strides and pointers, nothing of torch.
#pragma once
#include <cstdint>

namespace qkv {

enum Map : int32_t { GAUSSIAN = 0, ARCCOS = 1, FAVOR = 2, ELU = 3 };

// A [B,H,N,width] tensor whose last dimension is contiguous; float32, or bfloat16 where `half` is set.
struct Rows {
  void* data;
  int64_t batch, head, position;
};

// Tensors without strides are contiguous float32; a null pointer says that there is none.
struct Call {
  int64_t batch, heads, queries, keys, width, value, features;
  int32_t map, unit, causal, half, weighed, threads;
  float floor, square;  // square: a key's log mass is lowered by this times its squared length
  Rows q, k, v, out;
  const float* matrix;              // [H,R,D], bandwidth and temperature inside
  const uint8_t* keep;              // [B,S]
  const float *written, *decay;     // [B,H,S]
  const float *sums0, *plain0, *scale0;  // [B,H,F,E+1], [B,H,1,E+2], [B,H,1,1]
  float *total, *count, *squares, *top;  // [B,H,T], what the backward pass needs of every query
  float *sums, *plain, *scale;      // the state after the last key
  // Backward only.
  Rows grad_out, grad_q, grad_k, grad_v;
  const float *grad_sums, *grad_plain;
  float* grad_matrix;               // [B,H,R,D]
  float *grad_written, *grad_decay; // [B,H,S]
  float *grad_sums0, *grad_plain0;
};

// out = x matrix^T + bias of few rows x; contiguous float32, and no bias where it is null.
struct Few {
  int64_t rows, columns, width, threads;
  const float *x, *matrix, *bias;  // [rows, width], [columns, width], [columns]
  float* out;                      // [rows, columns]
};

// A decoding step of a layer: x becomes queries and, side by side, keys and values; the sums are read and added to;
// and `out` is made of the averages.  `call` has sizes, state and map; what is between the parts is left out.
struct Whole {
  Few query, keys, out;
  Call call;
};

}  // namespace qkv
