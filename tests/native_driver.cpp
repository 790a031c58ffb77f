// Calls the native engine with tensors of exactly the required size, so that a sanitizer detects every access beyond
// them, and on more threads than there are heads.
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
extern "C" int qkv_small_linear(const qkv::SmallLinear*);
extern "C" int qkv_layer_step(const qkv::LayerStep*);
extern "C" int qkv_additive_score(const qkv::AdditiveScore*);
extern "C" int qkv_additive_score_backward(const qkv::AdditiveScore*);

namespace {

using Floats = std::vector<float>;
std::mt19937 generator(1);
int64_t missing_floats = 0, missing_scores = 0;

Floats random(int64_t count) {
  std::normal_distribution<float> normal;
  Floats result(static_cast<size_t>(count));
  for (float& x : result) x = normal(generator);
  return result;
}

struct Case {
  int64_t width, value, features, queries, keys;
  int32_t map;
  bool causal, has_gate, has_state, is_bfloat16;
  int threads;
  int64_t batch = 2, heads = 2;
  bool has_query_sums = true, has_keep = true;  // has_query_sums: the backward pass runs too
};

qkv::StridedTensor rows(Floats& x, int64_t heads, int64_t positions, int64_t width) {
  return {x.data(), heads * positions * width, positions * width, width};
}

bool is_finite(const Floats& x) {
  for (float value : x)
    if (!std::isfinite(value)) return false;
  return true;
}

// A bfloat16 tensor of rows takes half as many floats.
int64_t count_floats(const Case& c, int64_t count) { return c.is_bfloat16 ? (count + 1) / 2 : count; }

// All tensors of a call.  Their sizes depend on the case only.
struct Tensors {
  explicit Tensors(const Case& c)
      : all(c.batch * c.heads), q(make_rows(c, c.queries, c.width)), k(make_rows(c, c.keys, c.width)),
        v(make_rows(c, c.keys, c.value)), out(make_rows(c, c.queries, c.value)),
        grad_out(make_rows(c, c.queries, c.value)),
        grad_q(q), grad_k(k), grad_v(v), projection(random(c.heads * c.features * c.width)),
        grad_projection(size_t(all * c.features * c.width)), keep(size_t(c.batch * c.keys), 1),
        log_weights(random(all * c.keys)), log_decay(random(all * c.keys)), initial_scale(random(all)),
        scale(random(all)) {
    const int64_t mapped = c.map == qkv::GAUSSIAN ? 2 * c.features : c.features, sum_width = c.value + 1;
    if (missing_floats && !v.empty()) v.pop_back(), v.shrink_to_fit();
    for (size_t i = 0; i < keep.size(); i += 3) keep[i] = 0;
    for (float& x : log_decay) x = -std::fabs(x);
    for (Floats* x : {&initial_sums, &sums, &grad_sums, &grad_initial_sums}) *x = random(all * mapped * sum_width);
    for (Floats* x : {&initial_plain, &plain, &grad_plain, &grad_initial_plain}) *x = random(all * (sum_width + 1));
    for (float& x : initial_plain) x = std::fabs(x) + 1;
    for (Floats& x : query_sums) x = random(all * c.queries);
    grad_log_weights = log_weights, grad_log_decay = log_decay;
  }

  static Floats make_rows(const Case& c, int64_t positions, int64_t width) {
    Floats result = random(count_floats(c, c.batch * c.heads * positions * width));
    if (c.is_bfloat16 && !result.empty()) std::memset(result.data(), 0x3c, result.size() * 4);
    return result;
  }

  int64_t all;
  Floats q, k, v, out, grad_out, grad_q, grad_k, grad_v, projection, grad_projection;
  std::vector<uint8_t> keep;
  Floats log_weights, log_decay, initial_scale, scale, initial_sums, initial_plain, query_sums[4], sums, plain;
  Floats grad_sums, grad_plain, grad_log_weights, grad_log_decay, grad_initial_sums, grad_initial_plain;
};

qkv::Call make_call(const Case& c, Tensors& tensors) {
  qkv::Call call{};
  call.batch = c.batch, call.heads = c.heads, call.queries = c.queries, call.keys = c.keys;
  call.key_width = c.width, call.value_width = c.value, call.features = c.features, call.map = c.map;
  call.unit_length = c.map < qkv::FAVOR, call.causal = c.causal, call.is_bfloat16 = c.is_bfloat16;
  call.threads = c.threads;
  call.has_key_weights = c.has_gate || c.map == qkv::FAVOR, call.floor = 0.1f, call.squared_length_factor = 0.05f;
  call.q = rows(tensors.q, c.heads, c.queries, c.width), call.k = rows(tensors.k, c.heads, c.keys, c.width);
  call.v = rows(tensors.v, c.heads, c.keys, c.value), call.out = rows(tensors.out, c.heads, c.queries, c.value);
  call.projection = c.map == qkv::ELU ? nullptr : tensors.projection.data();
  if (c.has_keep) call.keep = tensors.keep.data();
  if (c.has_gate) call.log_weights = tensors.log_weights.data(), call.log_decay = tensors.log_decay.data();
  if (c.has_state) {
    call.initial_feature_sums = tensors.initial_sums.data(), call.initial_plain_sums = tensors.initial_plain.data();
    call.initial_log_scale = tensors.initial_scale.data();
  }
  call.final_feature_sums = tensors.sums.data(), call.final_plain_sums = tensors.plain.data();
  call.final_log_scale = tensors.scale.data();
  if (!c.has_query_sums) return call;
  call.denominators = tensors.query_sums[0].data(), call.weight_sums = tensors.query_sums[1].data();
  call.squared_weight_sums = tensors.query_sums[2].data(), call.max_log_weights = tensors.query_sums[3].data();
  call.grad_out = rows(tensors.grad_out, c.heads, c.queries, c.value);
  call.grad_q = rows(tensors.grad_q, c.heads, c.queries, c.width);
  call.grad_k = rows(tensors.grad_k, c.heads, c.keys, c.width);
  call.grad_v = rows(tensors.grad_v, c.heads, c.keys, c.value);
  call.grad_projection = c.map == qkv::ELU ? nullptr : tensors.grad_projection.data();
  call.grad_final_feature_sums = tensors.grad_sums.data(), call.grad_final_plain_sums = tensors.grad_plain.data();
  if (c.has_gate)
    call.grad_log_weights = tensors.grad_log_weights.data(), call.grad_log_decay = tensors.grad_log_decay.data();
  if (c.has_state) {
    call.grad_initial_feature_sums = tensors.grad_initial_sums.data();
    call.grad_initial_plain_sums = tensors.grad_initial_plain.data();
  }
  return call;
}

bool run(const Case& c, Tensors& tensors) {
  const qkv::Call call = make_call(c, tensors);
  bool is_fine = qkv_forward(&call) == 0 && (c.is_bfloat16 || is_finite(tensors.out)) && is_finite(tensors.sums);
  if (c.has_query_sums) is_fine = qkv_backward(&call) == 0 && is_fine;
  for (const Floats* grad : {&tensors.grad_q, &tensors.grad_k, &tensors.grad_v})
    is_fine = is_fine && (c.is_bfloat16 || is_finite(*grad));
  if (!is_fine)
    std::printf("not finite: width %d value %d features %d queries %d keys %d map %d causal %d gate %d state %d "
                "half %d threads %d\n",
                int(c.width), int(c.value), int(c.features), int(c.queries), int(c.keys), c.map, c.causal, c.has_gate,
                c.has_state, c.is_bfloat16, c.threads);
  return is_fine;
}

bool run(const Case& c) {
  Tensors tensors(c);
  return run(c, tensors);
}

float difference(const Floats& x, const Floats& y) {
  float max_difference = 0, largest = 1;
  for (size_t i = 0; i < x.size(); ++i)
    max_difference = std::fmax(max_difference, std::fabs(x[i] - y[i])), largest = std::fmax(largest, std::fabs(x[i]));
  return max_difference / largest;
}

// Whether several threads compute what one thread does.
bool run_segments(Case c) {
  const int threads = c.threads;
  generator.seed(7);
  Tensors parallel(c);
  generator.seed(7);
  Tensors serial(c);
  c.threads = 1;
  bool is_fine = run(c, serial);
  c.threads = threads;
  is_fine = run(c, parallel) && is_fine;
  if (c.is_bfloat16) return is_fine;
  float max_difference = std::fmax(difference(serial.out, parallel.out), difference(serial.sums, parallel.sums));
  max_difference = std::fmax(max_difference, difference(serial.grad_projection, parallel.grad_projection));
  for (auto grad : {&Tensors::grad_q, &Tensors::grad_k, &Tensors::grad_v, &Tensors::grad_log_weights,
                    &Tensors::grad_log_decay, &Tensors::grad_initial_sums, &Tensors::grad_initial_plain})
    max_difference = std::fmax(max_difference, difference(serial.*grad, parallel.*grad));
  if (max_difference < 0.05f) return is_fine;  // few features cancel, and segments are summed in another order
  std::printf("difference %g: %d threads, width %d value %d features %d queries %d keys %d map %d causal %d gate %d "
              "state %d\n",
              max_difference, c.threads, int(c.width), int(c.value), int(c.features), int(c.queries), int(c.keys),
              c.map, c.causal, c.has_gate, c.has_state);
  return false;
}

bool run_additive_score(int64_t width, int64_t queries, int64_t keys, int64_t batch, int64_t threads) {
  const int64_t heads = batch, all = batch * heads;
  Floats q = random(all * queries * width), k = random(all * keys * width), v = random(heads * width);
  Floats grad_q = q, grad_k = k, grad_v = random(all * width), grad = random(all * queries * keys);
  const int64_t pairs = all * queries * keys;
  Floats scores = random(pairs - (pairs > 1 ? missing_scores : 0));  // an empty one would have no address
  qkv::AdditiveScore call{batch, heads, queries, keys, width, threads};
  call.q = rows(q, heads, queries, width), call.k = rows(k, heads, keys, width), call.v = v.data();
  call.scores = scores.data(), call.grad_scores = grad.data(), call.grad_v = grad_v.data();
  call.grad_q = rows(grad_q, heads, queries, width), call.grad_k = rows(grad_k, heads, keys, width);
  const bool has_run = qkv_additive_score(&call) == 0 && qkv_additive_score_backward(&call) == 0;
  return has_run && is_finite(scores) && is_finite(grad_q) && is_finite(grad_k) && is_finite(grad_v);
}

bool run_small_linear(int64_t rows, int64_t out_features, int64_t in_features, bool has_bias, int64_t threads) {
  Floats x = random(rows * in_features), weight = random(out_features * in_features), bias = random(out_features);
  Floats out = random(rows * out_features);
  const float* bias_data = has_bias ? bias.data() : nullptr;
  const qkv::SmallLinear call{rows, out_features, in_features, threads, x.data(), weight.data(), bias_data, out.data()};
  return qkv_small_linear(&call) == 0 && is_finite(out);
}

bool run_layer_step(int64_t batch, int64_t positions, int64_t width, int64_t features, int32_t map, int64_t threads) {
  const int64_t heads = 2, rows = batch * positions, inner = heads * width, outer = 2 * width + 1;
  const int64_t mapped = map == qkv::GAUSSIAN ? 2 * features : features, states = batch * heads;
  Floats x = random(rows * outer), to_q = random(inner * outer), to_kv = random(2 * inner * outer);
  Floats to_out = random(outer * inner), bias = random(2 * inner), projection = random(heads * features * width);
  Floats sums = random(states * mapped * (width + 1)), plain = random(states * (width + 2)), scale = random(states);
  Floats out = random(rows * outer);
  qkv::LayerStep call{};
  call.to_query = {rows, inner, outer, threads, x.data(), to_q.data(), bias.data(), nullptr};
  call.to_key_value = {rows, 2 * inner, outer, threads, x.data(), to_kv.data(), bias.data(), nullptr};
  call.to_out = {rows, outer, inner, threads, nullptr, to_out.data(), nullptr, out.data()};
  qkv::Call& core = call.attention;
  core.batch = batch, core.heads = heads, core.queries = core.keys = positions;
  core.key_width = core.value_width = width;
  core.features = features, core.map = map, core.unit_length = core.causal = 1, core.threads = int32_t(threads);
  core.has_key_weights = map == qkv::FAVOR, core.floor = 0.1f, core.squared_length_factor = 0.05f;
  core.projection = map == qkv::ELU ? nullptr : projection.data();
  core.final_feature_sums = sums.data(), core.final_plain_sums = plain.data(), core.final_log_scale = scale.data();
  return qkv_layer_step(&call) == 0 && is_finite(out) && is_finite(sums);
}

const int64_t widths[] = {1, 7, 17, 64}, values[] = {1, 5, 33, 70}, features[] = {1, 5, 19, 64};
const int64_t lengths[] = {1, 3, 4, 5, 32, 33, 63, 64, 65, 1000};

// Every map at many sizes, with two heads and two batch rows.
bool run_all_sizes() {
  bool is_fine = true;
  int count = 0;
  for (int map = 0; map < 4; ++map)
    for (int64_t length : lengths)
      for (int bits = 0; bits < 16; ++bits) {
        const int size = count % 4, threads = 1 + count % 2;
        const bool causal = bits & 1, has_gate = bits & 2, has_state = bits & 4, is_bfloat16 = bits & 8;
        const int64_t width = widths[size], value = values[(size + bits) % 4];
        const int64_t rows = map == qkv::ELU ? width : features[(size + bits / 4) % 4];
        const int64_t queries = causal ? length : length / 2 + 1, heads = length > 500 ? 1 : 2;
        const Case c{width,    value,     rows,        queries, length, map,   causal, has_gate,
                     has_state, is_bfloat16, threads, 2,       heads,  true, threads > 1};
        is_fine = run(c) && is_fine;
        count += bits % 3 == 0 ? 2 : 1;
      }
  return is_fine;
}

// Every map on more threads than heads, at lengths around those at which a head is cut into segments.
bool run_all_segments(bool quick) {
  bool is_fine = true;
  int count = 0;
  const int64_t segment_lengths[] = {2, 255, 256, 257, 511, 512, 513, 767, 768, 769, 1023, 1025, 2047, 2048, 2049};
  for (int map = 0; map < 4; ++map)
    for (int64_t length : segment_lengths)
      for (int threads : {3, 4, 8})
        for (int bits = 0; bits < 8; ++bits, ++count) {
          if (quick && (count % 5 || length < 511 || length > 1025)) continue;
          const bool causal = bits & 1, has_gate = bits & 2, has_state = bits & 4, is_bfloat16 = count % 7 == 0;
          const int64_t width = widths[count % 3], value = values[count / 3 % 3];
          const int64_t rows = map == qkv::ELU ? width : features[count / 2 % 3];
          const int64_t heads = threads == 8 && count % 3 == 0 ? 3 : 1;
          const int64_t others[] = {length, 0, 1, length / 3, 1025};  // queries for these keys, or keys for these queries
          int64_t queries = length, keys = length;
          if (!causal) (count % 2 ? queries : keys) = others[count % 5];
          const Case c{width,     value,       rows,    queries, keys,  map,            causal,       has_gate,
                       has_state, is_bfloat16, threads, 1,       heads, count % 11 > 0, count % 4 > 0};
          is_fine = run_segments(c) && is_fine;
        }
  return is_fine;
}

bool run_all_additive_scores() {
  bool is_fine = true;
  int count = 0;
  for (int64_t width : widths)
    for (int64_t queries : lengths)
      for (int64_t keys : lengths)
        if (queries * keys <= 65 * 1000) {
          is_fine = run_additive_score(width, queries, keys, 1 + count % 2, 1 + count % 3) && is_fine;
          if (queries * keys < 5000) is_fine = run_additive_score(width, queries, keys, 1, 8) && is_fine;
          ++count;
        }
  return is_fine;
}

bool run_all_steps() {
  bool is_fine = true;
  int count = 0;
  for (int64_t width : widths)
    for (int64_t out_features : lengths)
      for (int64_t rows = 1; rows < 20; ++rows, ++count)
        is_fine = run_small_linear(rows, out_features, width, count % 2, 1 + count % 3) && is_fine;
  for (int32_t map = 0; map < 4; ++map)
    for (int64_t width : widths)
      for (int64_t positions : {1, 3, 4, 5})
        for (int64_t batch : {1, 5})
          for (int threads : {1, 3, 8}) {
            const int64_t rows = map == qkv::ELU ? width : features[count++ % 4];
            is_fine = run_layer_step(batch, positions, width, rows, map, threads) && is_fine;
          }
  return is_fine;
}

// Calls from several threads at the same time; one at a time uses the pool.
bool run_concurrent_calls() {
  std::vector<std::thread> callers;
  std::atomic<bool> is_fine{true};
  std::mutex generator_mutex;  // all callers share one random generator
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 20; ++round) {
        const Case c{5, 7, 5, 600, 600, (caller + round) % 4, round % 2 == 0, caller % 2 == 1, false, false, 3, 1, 1};
        std::unique_lock<std::mutex> lock(generator_mutex);
        Tensors tensors(c);
        lock.unlock();
        if (!run(c, tensors)) is_fine = false;
      }
    });
  for (std::thread& caller : callers) caller.join();
  return is_fine;
}

// A data race, which the thread sanitizer must report.
bool run_data_race() {
  int64_t count = 0;
  auto increment = [&] {
    for (int i = 0; i < 1000; ++i) ++count;
  };
  std::thread first(increment), second(increment);
  first.join(), second.join();
  return count > 0;
}

}  // namespace

// The first argument says what to run: "sizes", "segments" or "threads"; "short" or "short-additive": with a tensor that
// is one float too small; "race": with a data race.
int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  missing_floats = mode == "short", missing_scores = mode == "short-additive";
  bool is_fine = true;
  if (mode == "segments") is_fine = run_all_segments(false);
  else if (mode == "race") is_fine = run_data_race();
  else if (mode == "threads")
    is_fine = run_all_segments(true) && run_concurrent_calls() && run_all_additive_scores() && run_all_steps();
  else is_fine = run_all_sizes() && run_all_additive_scores() && run_all_steps();
  std::printf("%s\n", is_fine ? "fine" : "wrong");
  return is_fine ? 0 : 1;
}
