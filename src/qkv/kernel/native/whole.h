// A decoding step of a whole layer: what is between its parts would take as long outside as they do.
#pragma once
#include <memory>

#include "few.h"

namespace qkv {
namespace QKV_ISA {

void forward(const Call& call, Spread spread);

// [B,N,H,width], as a linear layer leaves it, from one of its columns on.
inline Rows rows_of(float* data, const Call& call, int64_t columns, int64_t width) {
  return {data, call.queries * columns, width, columns};
}

void whole(const Whole& given, Spread spread) {
  Few query = given.query, keys = given.keys, out = given.out;
  Call call = given.call;
  const int64_t between = query.columns + keys.columns + out.width;
  const std::unique_ptr<float[]> scratch(new float[size_t(query.rows * between)]);
  query.out = scratch.get();
  keys.out = query.out + query.rows * query.columns;
  float* average = keys.out + keys.rows * keys.columns;
  call.q = rows_of(query.out, call, query.columns, call.width);
  call.k = rows_of(keys.out, call, keys.columns, call.width);
  call.v = rows_of(keys.out + call.heads * call.width, call, keys.columns, call.value);
  call.out = rows_of(average, call, out.width, call.value);
  out.x = average;
  few(query, spread);
  few(keys, spread);
  forward(call, spread);
  few(out, spread);
}

}  // namespace QKV_ISA
}  // namespace qkv
