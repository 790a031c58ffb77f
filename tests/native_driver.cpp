// Calls the native engine with tensors that are exactly as large as they must be, so that a sanitizer sees every step
// beyond them.  With the argument "short" or "short-additive" one of them is a float too small.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "additive.h"
#include "call.h"

extern "C" int qkv_forward(const qkv::Call*);
extern "C" int qkv_backward(const qkv::Call*);
extern "C" int qkv_few(const qkv::Few*);
extern "C" int qkv_whole(const qkv::Whole*);
extern "C" int qkv_additive(const qkv::Additive*);
extern "C" int qkv_additive_backward(const qkv::Additive*);

namespace {

using Floats = std::vector<float>;
std::mt19937 numbers(1);
int64_t missing = 0, missing_scores = 0;

Floats random(int64_t many) {
  std::normal_distribution<float> normal;
  Floats made(static_cast<size_t>(many));
  for (float& x : made) x = normal(numbers);
  return made;
}

struct Case {
  int64_t width, value, features, queries, keys;
  int32_t map;
  bool causal, gate, state, half;
  int threads;
};

qkv::Rows rows(Floats& x, int64_t heads, int64_t positions, int64_t width) {
  return {x.data(), heads * positions * width, positions * width, width};
}

bool finite(const Floats& x) {
  for (float one : x)
    if (!std::isfinite(one)) return false;
  return true;
}

// bfloat16 has half as many bytes: every tensor of rows is then half as long.
int64_t floats_of(const Case& c, int64_t many) { return c.half ? (many + 1) / 2 : many; }

bool run(const Case& c) {
  const int64_t batch = 2, heads = c.keys > 500 ? 1 : 2, all = batch * heads;
  const int64_t rows_of = c.map == qkv::GAUSSIAN ? 2 * c.features : c.features, wide = c.value + 1;
  const int64_t state_floats = all * rows_of * wide, plain_floats = all * (wide + 1);
  auto tensor = [&](int64_t positions, int64_t width) {
    Floats made = random(floats_of(c, all * positions * width));
    if (c.half) std::memset(made.data(), 0x3c, made.size() * 4);
    return made;
  };
  Floats q = tensor(c.queries, c.width), k = tensor(c.keys, c.width), v = tensor(c.keys, c.value);
  v.resize(v.size() - size_t(missing)), v.shrink_to_fit();
  Floats out = tensor(c.queries, c.value), grad_out = tensor(c.queries, c.value);
  Floats grad_q = q, grad_k = k, grad_v = tensor(c.keys, c.value);
  Floats matrix = random(heads * c.features * c.width), grad_matrix(size_t(all * c.features * c.width));
  std::vector<uint8_t> keep(size_t(batch * c.keys), 1);
  for (size_t i = 0; i < keep.size(); i += 3) keep[i] = 0;
  Floats written = random(all * c.keys), decay = random(all * c.keys);
  for (float& x : decay) x = -std::fabs(x);
  Floats sums0 = random(state_floats), plain0 = random(plain_floats), scale0 = random(all);
  for (float& x : plain0) x = std::fabs(x) + 1;
  Floats noted[4];
  for (Floats& x : noted) x = random(all * c.queries);
  Floats sums = random(state_floats), plain = random(plain_floats), scale = random(all);
  Floats grad_written = written, grad_decay = decay, grad_sums0 = sums0, grad_plain0 = plain0;
  Floats grad_sums = random(state_floats), grad_plain = random(plain_floats);

  qkv::Call call{};
  call.batch = batch, call.heads = heads, call.queries = c.queries, call.keys = c.keys;
  call.width = c.width, call.value = c.value, call.features = c.features, call.map = c.map;
  call.unit = c.map < qkv::FAVOR, call.causal = c.causal, call.half = c.half, call.threads = c.threads;
  call.weighed = c.gate || c.map == qkv::FAVOR, call.floor = 0.1f, call.square = 0.05f;
  call.q = rows(q, heads, c.queries, c.width), call.k = rows(k, heads, c.keys, c.width);
  call.v = rows(v, heads, c.keys, c.value), call.out = rows(out, heads, c.queries, c.value);
  call.matrix = c.map == qkv::ELU ? nullptr : matrix.data();
  if (c.threads > 1) call.keep = keep.data();
  if (c.gate) call.written = written.data(), call.decay = decay.data();
  if (c.state) call.sums0 = sums0.data(), call.plain0 = plain0.data(), call.scale0 = scale0.data();
  call.total = noted[0].data(), call.count = noted[1].data();
  call.squares = noted[2].data(), call.top = noted[3].data();
  call.sums = sums.data(), call.plain = plain.data(), call.scale = scale.data();
  bool fine = qkv_forward(&call) == 0 && (c.half || finite(out)) && finite(sums);
  call.grad_out = rows(grad_out, heads, c.queries, c.value);
  call.grad_q = rows(grad_q, heads, c.queries, c.width), call.grad_k = rows(grad_k, heads, c.keys, c.width);
  call.grad_v = rows(grad_v, heads, c.keys, c.value);
  call.grad_matrix = c.map == qkv::ELU ? nullptr : grad_matrix.data();
  call.grad_sums = grad_sums.data(), call.grad_plain = grad_plain.data();
  if (c.gate) call.grad_written = grad_written.data(), call.grad_decay = grad_decay.data();
  if (c.state) call.grad_sums0 = grad_sums0.data(), call.grad_plain0 = grad_plain0.data();
  fine = qkv_backward(&call) == 0 && (c.half || (finite(grad_q) && finite(grad_k) && finite(grad_v))) && fine;
  if (!fine)
    std::printf("not finite: width %d value %d features %d queries %d keys %d map %d causal %d gate %d state %d\n",
                int(c.width), int(c.value), int(c.features), int(c.queries), int(c.keys), c.map, c.causal, c.gate,
                c.state);
  return fine;
}

bool run_additive(int64_t width, int64_t queries, int64_t keys, int64_t batch, int64_t threads) {
  const int64_t heads = batch, all = batch * heads;
  Floats q = random(all * queries * width), k = random(all * keys * width), v = random(heads * width);
  Floats grad_q = q, grad_k = k, grad_v = random(all * width), grad = random(all * queries * keys);
  const int64_t pairs = all * queries * keys;
  Floats scores = random(pairs - (pairs > 1 ? missing_scores : 0));  // an empty one would have no address
  qkv::Additive call{batch, heads, queries, keys, width, threads};
  call.q = rows(q, heads, queries, width), call.k = rows(k, heads, keys, width), call.v = v.data();
  call.scores = scores.data(), call.grad = grad.data(), call.grad_v = grad_v.data();
  call.grad_q = rows(grad_q, heads, queries, width), call.grad_k = rows(grad_k, heads, keys, width);
  const bool ran = qkv_additive(&call) == 0 && qkv_additive_backward(&call) == 0;
  return ran && finite(scores) && finite(grad_q) && finite(grad_k) && finite(grad_v);
}

bool run_few(int64_t rows, int64_t columns, int64_t width, bool bias, int64_t threads) {
  Floats x = random(rows * width), matrix = random(columns * width), added = random(columns);
  Floats out = random(rows * columns);
  const qkv::Few call{rows, columns, width, threads, x.data(), matrix.data(), bias ? added.data() : nullptr, out.data()};
  return qkv_few(&call) == 0 && finite(out);
}

bool run_whole(int64_t batch, int64_t positions, int64_t width, int64_t features, int32_t map, int64_t threads) {
  const int64_t heads = 2, rows = batch * positions, inner = heads * width, outer = 2 * width + 1;
  const int64_t made = map == qkv::GAUSSIAN ? 2 * features : features, states = batch * heads;
  Floats x = random(rows * outer), to_q = random(inner * outer), to_kv = random(2 * inner * outer);
  Floats to_out = random(outer * inner), bias = random(2 * inner), matrix = random(heads * features * width);
  Floats sums = random(states * made * (width + 1)), plain = random(states * (width + 2)), scale = random(states);
  Floats out = random(rows * outer);
  qkv::Whole call{};
  call.query = {rows, inner, outer, threads, x.data(), to_q.data(), bias.data(), nullptr};
  call.keys = {rows, 2 * inner, outer, threads, x.data(), to_kv.data(), bias.data(), nullptr};
  call.out = {rows, outer, inner, threads, nullptr, to_out.data(), nullptr, out.data()};
  qkv::Call& core = call.call;
  core.batch = batch, core.heads = heads, core.queries = core.keys = positions, core.width = core.value = width;
  core.features = features, core.map = map, core.unit = core.causal = 1, core.threads = int32_t(threads);
  core.weighed = map == qkv::FAVOR, core.floor = 0.1f, core.square = 0.05f;
  core.matrix = map == qkv::ELU ? nullptr : matrix.data();
  core.sums = sums.data(), core.plain = plain.data(), core.scale = scale.data();
  return qkv_whole(&call) == 0 && finite(out) && finite(sums);
}

}  // namespace

int main(int many, char** given) {
  missing = many > 1 && !std::strcmp(given[1], "short") ? 1 : 0;
  missing_scores = many > 1 && !std::strcmp(given[1], "short-additive") ? 1 : 0;
  const int64_t widths[] = {1, 7, 17, 64}, values[] = {1, 5, 33, 70}, features[] = {1, 5, 19, 64};
  const int64_t lengths[] = {1, 3, 4, 5, 32, 33, 63, 64, 65, 1000};
  bool fine = true;
  int count = 0;
  for (int map = 0; map < 4; ++map)
    for (int64_t length : lengths)
      for (int bits = 0; bits < 16; ++bits) {
        const int size = count % 4, threads = 1 + count % 2;
        const bool causal = bits & 1, gate = bits & 2, state = bits & 4, half = bits & 8;
        const int64_t wide = widths[size], value = values[(size + bits) % 4];
        const int64_t rows = map == qkv::ELU ? wide : features[(size + bits / 4) % 4];
        const int64_t queries = causal ? length : length / 2 + 1;
        fine = run({wide, value, rows, queries, length, map, causal, gate, state, half, threads}) && fine;
        count += bits % 3 == 0 ? 2 : 1;
      }
  for (int64_t width : widths)
    for (int64_t queries : lengths)
      for (int64_t keys : lengths)
        if (queries * keys <= 65 * 1000) {
          fine = run_additive(width, queries, keys, 1 + count % 2, 1 + count % 3) && fine;
          ++count;
        }
  for (int64_t width : widths)
    for (int64_t columns : lengths)
      for (int64_t rows = 1; rows < 20; ++rows, ++count)
        fine = run_few(rows, columns, width, count % 2, 1 + count % 3) && fine;
  for (int32_t map = 0; map < 4; ++map)
    for (int64_t width : widths)
      for (int64_t positions : {1, 3, 5})
        for (int64_t batch : {1, 5}) {
          const int64_t made = map == qkv::ELU ? width : features[count % 4];
          fine = run_whole(batch, positions, width, made, map, 1 + ++count % 3) && fine;
        }
  std::printf("%s\n", fine ? "fine" : "wrong");
  return fine ? 0 : 1;
}
