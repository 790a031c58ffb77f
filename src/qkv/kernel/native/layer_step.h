// A decoding step of a whole layer in one call: returning to Python between its parts would take as long as the parts.
#pragma once
#include <memory>

#include "small_linear.h"

namespace qkv {
namespace QKV_ISA {

void forward(const Call& call, RunOnThreads run_on_threads);

// A view [B,H,N,width] of rows of `columns` columns, as a linear layer writes them.
inline StridedTensor view_heads(float* data, const Call& call, int64_t columns, int64_t width) {
  return {data, call.queries * columns, width, columns};
}

void layer_step(const LayerStep& step, RunOnThreads run_on_threads) {
  SmallLinear to_query = step.to_query, to_key_value = step.to_key_value, to_out = step.to_out;
  Call call = step.attention;
  const int64_t columns = to_query.out_features + to_key_value.out_features + to_out.in_features;
  const std::unique_ptr<float[]> scratch(new float[size_t(to_query.rows * columns)]);
  to_query.out = scratch.get();
  to_key_value.out = to_query.out + to_query.rows * to_query.out_features;
  float* averages = to_key_value.out + to_key_value.rows * to_key_value.out_features;
  float* values = to_key_value.out + call.heads * call.key_width;
  call.q = view_heads(to_query.out, call, to_query.out_features, call.key_width);
  call.k = view_heads(to_key_value.out, call, to_key_value.out_features, call.key_width);
  call.v = view_heads(values, call, to_key_value.out_features, call.value_width);
  call.out = view_heads(averages, call, to_out.in_features, call.value_width);
  to_out.x = averages;
  small_linear(to_query, run_on_threads);
  small_linear(to_key_value, run_on_threads);
  forward(call, run_on_threads);
  small_linear(to_out, run_on_threads);
}

}  // namespace QKV_ISA
}  // namespace qkv
