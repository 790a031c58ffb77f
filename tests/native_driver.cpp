// Calls the native engine with tensors that are exactly as large as they must be, so that a sanitizer sees every step
// beyond them, and on more threads than there are heads.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <random>
#include <string>
#include <thread>
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
  int64_t batch = 2, heads = 2;
  bool noted = true, keep = true;  // noted: with what the backward pass needs, and with that pass
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

// All tensors of a call, whose numbers depend on the sizes only.
struct Tensors {
  explicit Tensors(const Case& c)
      : all(c.batch * c.heads), q(of_rows(c, c.queries, c.width)), k(of_rows(c, c.keys, c.width)),
        v(of_rows(c, c.keys, c.value)), out(of_rows(c, c.queries, c.value)), grad_out(of_rows(c, c.queries, c.value)),
        grad_q(q), grad_k(k), grad_v(v), matrix(random(c.heads * c.features * c.width)),
        grad_matrix(size_t(all * c.features * c.width)), keep(size_t(c.batch * c.keys), 1),
        written(random(all * c.keys)), decay(random(all * c.keys)), scale0(random(all)), scale(random(all)) {
    const int64_t mapped = c.map == qkv::GAUSSIAN ? 2 * c.features : c.features, wide = c.value + 1;
    if (missing && !v.empty()) v.pop_back(), v.shrink_to_fit();
    for (size_t i = 0; i < keep.size(); i += 3) keep[i] = 0;
    for (float& x : decay) x = -std::fabs(x);
    for (Floats* one : {&sums0, &sums, &grad_sums, &grad_sums0}) *one = random(all * mapped * wide);
    for (Floats* one : {&plain0, &plain, &grad_plain, &grad_plain0}) *one = random(all * (wide + 1));
    for (float& x : plain0) x = std::fabs(x) + 1;
    for (Floats& x : noted) x = random(all * c.queries);
    grad_written = written, grad_decay = decay;
  }

  static Floats of_rows(const Case& c, int64_t positions, int64_t width) {
    Floats made = random(floats_of(c, c.batch * c.heads * positions * width));
    if (c.half && !made.empty()) std::memset(made.data(), 0x3c, made.size() * 4);
    return made;
  }

  int64_t all;
  Floats q, k, v, out, grad_out, grad_q, grad_k, grad_v, matrix, grad_matrix;
  std::vector<uint8_t> keep;
  Floats written, decay, scale0, scale, sums0, plain0, noted[4], sums, plain;
  Floats grad_sums, grad_plain, grad_written, grad_decay, grad_sums0, grad_plain0;
};

qkv::Call call_of(const Case& c, Tensors& at) {
  qkv::Call call{};
  call.batch = c.batch, call.heads = c.heads, call.queries = c.queries, call.keys = c.keys;
  call.width = c.width, call.value = c.value, call.features = c.features, call.map = c.map;
  call.unit = c.map < qkv::FAVOR, call.causal = c.causal, call.half = c.half, call.threads = c.threads;
  call.weighed = c.gate || c.map == qkv::FAVOR, call.floor = 0.1f, call.square = 0.05f;
  call.q = rows(at.q, c.heads, c.queries, c.width), call.k = rows(at.k, c.heads, c.keys, c.width);
  call.v = rows(at.v, c.heads, c.keys, c.value), call.out = rows(at.out, c.heads, c.queries, c.value);
  call.matrix = c.map == qkv::ELU ? nullptr : at.matrix.data();
  if (c.keep) call.keep = at.keep.data();
  if (c.gate) call.written = at.written.data(), call.decay = at.decay.data();
  if (c.state) call.sums0 = at.sums0.data(), call.plain0 = at.plain0.data(), call.scale0 = at.scale0.data();
  call.sums = at.sums.data(), call.plain = at.plain.data(), call.scale = at.scale.data();
  if (!c.noted) return call;
  call.total = at.noted[0].data(), call.count = at.noted[1].data();
  call.squares = at.noted[2].data(), call.top = at.noted[3].data();
  call.grad_out = rows(at.grad_out, c.heads, c.queries, c.value);
  call.grad_q = rows(at.grad_q, c.heads, c.queries, c.width), call.grad_k = rows(at.grad_k, c.heads, c.keys, c.width);
  call.grad_v = rows(at.grad_v, c.heads, c.keys, c.value);
  call.grad_matrix = c.map == qkv::ELU ? nullptr : at.grad_matrix.data();
  call.grad_sums = at.grad_sums.data(), call.grad_plain = at.grad_plain.data();
  if (c.gate) call.grad_written = at.grad_written.data(), call.grad_decay = at.grad_decay.data();
  if (c.state) call.grad_sums0 = at.grad_sums0.data(), call.grad_plain0 = at.grad_plain0.data();
  return call;
}

bool run(const Case& c, Tensors& at) {
  const qkv::Call call = call_of(c, at);
  bool fine = qkv_forward(&call) == 0 && (c.half || finite(at.out)) && finite(at.sums);
  if (c.noted) fine = qkv_backward(&call) == 0 && fine;
  for (const Floats* grad : {&at.grad_q, &at.grad_k, &at.grad_v}) fine = fine && (c.half || finite(*grad));
  if (!fine)
    std::printf("not finite: width %d value %d features %d queries %d keys %d map %d causal %d gate %d state %d "
                "half %d threads %d\n",
                int(c.width), int(c.value), int(c.features), int(c.queries), int(c.keys), c.map, c.causal, c.gate,
                c.state, c.half, c.threads);
  return fine;
}

bool run(const Case& c) {
  Tensors at(c);
  return run(c, at);
}

float difference(const Floats& x, const Floats& y) {
  float most = 0, largest = 1;
  for (size_t i = 0; i < x.size(); ++i)
    most = std::fmax(most, std::fabs(x[i] - y[i])), largest = std::fmax(largest, std::fabs(x[i]));
  return most / largest;
}

// Whether several threads give what one gives.
bool run_parts(Case c) {
  const int threads = c.threads;
  numbers.seed(7);
  Tensors several(c);
  numbers.seed(7);
  Tensors one(c);
  c.threads = 1;
  bool fine = run(c, one);
  c.threads = threads;
  fine = run(c, several) && fine;
  if (c.half) return fine;
  float most = std::fmax(difference(one.out, several.out), difference(one.sums, several.sums));
  most = std::fmax(most, difference(one.grad_matrix, several.grad_matrix));
  for (auto grad : {&Tensors::grad_q, &Tensors::grad_k, &Tensors::grad_v, &Tensors::grad_written, &Tensors::grad_decay,
                    &Tensors::grad_sums0, &Tensors::grad_plain0})
    most = std::fmax(most, difference(one.*grad, several.*grad));
  if (most < 0.05f) return fine;  // few features cancel, and parts sum in another order
  std::printf("%g off: %d threads, width %d value %d features %d queries %d keys %d map %d causal %d gate %d state %d\n",
              most, c.threads, int(c.width), int(c.value), int(c.features), int(c.queries), int(c.keys), c.map,
              c.causal, c.gate, c.state);
  return false;
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

const int64_t widths[] = {1, 7, 17, 64}, values[] = {1, 5, 33, 70}, features[] = {1, 5, 19, 64};
const int64_t lengths[] = {1, 3, 4, 5, 32, 33, 63, 64, 65, 1000};

// Every map at all kinds of sizes, with two heads and rows.
bool all_sizes() {
  bool fine = true;
  int count = 0;
  for (int map = 0; map < 4; ++map)
    for (int64_t length : lengths)
      for (int bits = 0; bits < 16; ++bits) {
        const int size = count % 4, threads = 1 + count % 2;
        const bool causal = bits & 1, gate = bits & 2, state = bits & 4, half = bits & 8;
        const int64_t wide = widths[size], value = values[(size + bits) % 4];
        const int64_t rows = map == qkv::ELU ? wide : features[(size + bits / 4) % 4];
        const int64_t queries = causal ? length : length / 2 + 1, heads = length > 500 ? 1 : 2;
        fine = run({wide, value, rows, queries, length, map, causal, gate, state, half, threads, 2, heads, true,
                    threads > 1}) && fine;
        count += bits % 3 == 0 ? 2 : 1;
      }
  return fine;
}

// Every map on more threads than heads, on either side of the lengths at which a head is cut into parts.
bool all_parts(bool briefly) {
  bool fine = true;
  int count = 0;
  const int64_t around[] = {2, 255, 256, 257, 511, 512, 513, 767, 768, 769, 1023, 1025, 2047, 2048, 2049};
  for (int map = 0; map < 4; ++map)
    for (int64_t length : around)
      for (int threads : {3, 4, 8})
        for (int bits = 0; bits < 8; ++bits, ++count) {
          if (briefly && (count % 5 || length < 511 || length > 1025)) continue;
          const bool causal = bits & 1, gate = bits & 2, state = bits & 4;
          const int64_t wide = widths[count % 3], value = values[count / 3 % 3];
          const int64_t rows = map == qkv::ELU ? wide : features[count / 2 % 3];
          const int64_t others[] = {length, 0, 1, length / 3, 1025};  // queries of keys, or keys of queries
          int64_t queries = length, keys = length;
          if (!causal) (count % 2 ? queries : keys) = others[count % 5];
          fine = run_parts({wide, value, rows, queries, keys, map, causal, gate, state, count % 7 == 0, threads, 1,
                            threads == 8 && count % 3 == 0 ? 3 : 1, count % 11 > 0, count % 4 > 0}) && fine;
        }
  return fine;
}

bool all_additive() {
  bool fine = true;
  int count = 0;
  for (int64_t width : widths)
    for (int64_t queries : lengths)
      for (int64_t keys : lengths)
        if (queries * keys <= 65 * 1000) {
          fine = run_additive(width, queries, keys, 1 + count % 2, 1 + count % 3) && fine;
          if (queries * keys < 5000) fine = run_additive(width, queries, keys, 1, 8) && fine;
          ++count;
        }
  return fine;
}

bool all_steps() {
  bool fine = true;
  int count = 0;
  for (int64_t width : widths)
    for (int64_t columns : lengths)
      for (int64_t rows = 1; rows < 20; ++rows, ++count)
        fine = run_few(rows, columns, width, count % 2, 1 + count % 3) && fine;
  for (int32_t map = 0; map < 4; ++map)
    for (int64_t width : widths)
      for (int64_t positions : {1, 3, 4, 5})
        for (int64_t batch : {1, 5})
          for (int threads : {1, 3, 8}) {
            const int64_t made = map == qkv::ELU ? width : features[count++ % 4];
            fine = run_whole(batch, positions, width, made, map, threads) && fine;
          }
  return fine;
}

// Calls from several threads at once, of which one at a time has the pool.
bool all_at_once() {
  std::vector<std::thread> callers;
  std::atomic<bool> fine{true};
  std::mutex drawing;  // the random numbers are one sequence
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 20; ++round) {
        const Case c{5, 7, 5, 600, 600, (caller + round) % 4, round % 2 == 0, caller % 2 == 1, false, false, 3, 1, 1};
        std::unique_lock<std::mutex> lock(drawing);
        Tensors at(c);
        lock.unlock();
        if (!run(c, at)) fine = false;
      }
    });
  for (std::thread& caller : callers) caller.join();
  return fine;
}

// What a sanitizer of threads must see.
bool race() {
  int64_t count = 0;
  auto counts = [&] {
    for (int i = 0; i < 1000; ++i) ++count;
  };
  std::thread one(counts), other(counts);
  one.join(), other.join();
  return count > 0;
}

}  // namespace

// "sizes", "parts" or "threads": what to run; "short" or "short-additive": with a tensor that is a float too small;
// "race": a data race.
int main(int many, char** given) {
  const std::string mode = many > 1 ? given[1] : "";
  missing = mode == "short", missing_scores = mode == "short-additive";
  bool fine = true;
  if (mode == "parts") fine = all_parts(false);
  else if (mode == "race") fine = race();
  else if (mode == "threads") fine = all_parts(true) && all_at_once() && all_additive() && all_steps();
  else fine = all_sizes() && all_additive() && all_steps();
  std::printf("%s\n", fine ? "fine" : "wrong");
  return fine ? 0 : 1;
}
