// The engine for one instruction set: compiled once for each.
#include <algorithm>

#include "backward_parts.h"
#include "ceiling.h"
#include "forward.h"
#include "jobs.h"
#include "step.h"
#include "threads.h"
#include "whole.h"

namespace qkv {
namespace QKV_ISA {

namespace {

constexpr int64_t FEWEST = 8 * C;  // tokens that are worth a run of their own
constexpr int64_t FEW = 4;         // tokens that are no chunk yet

void add_up(Chunks& chunks, State& state, Part keys) {
  for (int64_t at = keys.begin; at < keys.end; at += C) {
    const int64_t many = std::min<int64_t>(C, keys.end - at);
    chunks.read_keys(at, many);
    chunks.absorb(state, many);
  }
}

void note(const Call& call, const Chunks& chunks, int64_t at, int64_t many) {
  if (!call.total) return;
  const int64_t row = (chunks.b * call.heads + chunks.h) * call.queries + at;
  std::memcpy(call.total + row, chunks.total, size_t(many) * 4);
  std::memcpy(call.count + row, chunks.count, size_t(many) * 4);
  std::memcpy(call.squares + row, chunks.squares, size_t(many) * 4);
  std::memcpy(call.top + row, chunks.top, size_t(many) * 4);
}

void read_all(const Call& call, Chunks& chunks, const State& state, Part queries) {
  for (int64_t at = queries.begin; at < queries.end; at += C) {
    const int64_t many = std::min<int64_t>(C, queries.end - at);
    chunks.read_queries(at, many);
    chunks.read(state, at, many);
    note(call, chunks, at, many);
  }
}

void run_along(const Call& call, Chunks& chunks, State& state, Part tokens) {
  for (int64_t at = tokens.begin; at < tokens.end; at += C) {
    const int64_t many = std::min<int64_t>(C, tokens.end - at);
    chunks.read_both(at, many);
    chunks.run(state, at, many);
    note(call, chunks, at, many);
  }
}

void open(const Call& call, Chunks& chunks, int64_t head) {
  chunks.open(head / call.heads, head % call.heads);
  chunks.features.open(chunks.h, false);
}

// Every head by itself, token by token.
void by_step(const Call& call, Spread spread, int threads) {
  Jobs jobs(call.batch * call.heads, threads);
  auto body = [&] {
    Steps steps(call);
    jobs.each([&](int64_t i) { steps.run(i / call.heads, i % call.heads); });
  };
  on_threads(spread, threads, body);
}

// Every head by itself.
void by_head(const Call& call, Spread spread, int threads) {
  Jobs jobs(call.batch * call.heads, threads);
  auto body = [&] {
    Chunks chunks(call);
    State state{Sizes(call)};
    jobs.each([&](int64_t i) {
      open(call, chunks, i);
      chunks.begin(state);
      if (call.causal) {
        run_along(call, chunks, state, {0, call.keys});
      } else {
        add_up(chunks, state, {0, call.keys});
        read_all(call, chunks, state, {0, call.queries});
      }
      chunks.give(state, call.sums, call.plain, call.scale);
    });
  };
  on_threads(spread, threads, body);
}

// Each head's keys in `parts` runs, summed side by side; then what all runs up to its own add up to.  Of causal
// sums the last is left out, for nobody reads it.
std::vector<State> ends_of(const Call& call, Spread spread, int threads, int64_t parts) {
  const Sizes sizes(call);
  const int64_t runs = call.batch * call.heads * parts;
  std::vector<State> states;
  for (int64_t i = 0; i < runs; ++i) states.emplace_back(sizes);
  Jobs jobs(runs, threads);
  auto sum = [&] {
    Chunks chunks(call);
    jobs.each([&](int64_t i) {
      open(call, chunks, i / parts);
      if (i % parts == 0) chunks.begin(states[size_t(i)]);
      if (!call.causal || i % parts < parts - 1)
        add_up(chunks, states[size_t(i)], part_of(call.keys, parts, i % parts));
    });
  };
  on_threads(spread, threads, sum);
  for (int64_t i = 0; i < runs; ++i)
    if (i % parts > 0) follow(sizes, call.weighed, states[size_t(i - 1)], states[size_t(i)]);
  return states;
}

// Fewer heads than threads: every run goes on from what the ones before it add up to.
void by_part(const Call& call, Spread spread, int threads, int64_t parts) {
  const Sizes sizes(call);
  const std::vector<State> states = ends_of(call, spread, threads, parts);
  Jobs jobs(call.batch * call.heads * parts, threads);
  auto read = [&] {
    Chunks chunks(call);
    State state(sizes);
    jobs.each([&](int64_t i) {
      open(call, chunks, i / parts);
      const bool ends = i % parts == parts - 1;
      if (call.causal) {
        if (i % parts == 0) chunks.begin(state);
        else copy(sizes, states[i - 1], state);
        run_along(call, chunks, state, part_of(call.keys, parts, i % parts));
        if (ends) chunks.give(state, call.sums, call.plain, call.scale);
      } else {
        read_all(call, chunks, states[i - i % parts + parts - 1], part_of(call.queries, parts, i % parts));
        if (ends) chunks.give(states[i], call.sums, call.plain, call.scale);
      }
    });
  };
  on_threads(spread, threads, read);
}

// How many runs each head is cut into, so that all threads have work that is worth it.
int64_t parts_of(const Call& call) {
  const int64_t heads = call.batch * call.heads, tokens = std::max(call.keys, call.queries);
  const int64_t most = std::max<int64_t>(tokens / FEWEST, 1);
  return heads < call.threads ? std::min((call.threads + heads - 1) / heads, most) : 1;
}

void back_by_head(const Call& call, Spread spread, int threads) {
  const Sizes sizes(call);
  Jobs jobs(call.batch * call.heads, threads);
  auto body = [&] {
    Backward chunks(call);
    Slopes slopes(call.queries + C);
    jobs.each([&](int64_t i) {
      chunks.open(i / call.heads, i % call.heads, slopes);
      chunks.begin_state();
      chunks.begin_back();
      chunks.run_queries({0, call.queries}, !call.causal);
      double written = 0;
      chunks.run_keys({0, call.keys}, written);
      chunks.finish_state();
      if (call.grad_matrix) chunks.finish_matrix(call.grad_matrix + i * sizes.features * sizes.width);
    });
  };
  on_threads(spread, threads, body);
}

void back_by_part(const Call& call, Spread spread, int threads, int64_t parts) {
  std::vector<State> ends;
  if (call.causal) ends = ends_of(call, spread, threads, parts);
  BackwardParts all(call, parts, ends);
  auto each = [&](void (BackwardParts::*work)(Backward&, int64_t)) {
    Jobs jobs(call.batch * call.heads * parts, threads);
    auto body = [&] {
      Backward chunks(call);
      jobs.each([&](int64_t i) { (all.*work)(chunks, i); });
    };
    on_threads(spread, threads, body);
  };
  each(&BackwardParts::queries_of);
  all.hand_back();
  each(&BackwardParts::keys_of);
  all.add_up();
}

}  // namespace

void forward(const Call& call, Spread spread) {
  const int64_t heads = call.batch * call.heads;
  if (heads == 0) return;
  const int64_t parts = parts_of(call);
  const int threads = int(std::min<int64_t>(call.threads, heads * parts));
  if (call.causal && call.keys > 0 && call.keys <= FEW) by_step(call, spread, threads);
  else if (parts == 1) by_head(call, spread, threads);
  else by_part(call, spread, threads, parts);
}

void backward(const Call& call, Spread spread) {
  const int64_t heads = call.batch * call.heads;
  if (heads == 0) return;
  const int64_t parts = parts_of(call);
  const int threads = int(std::min<int64_t>(call.threads, heads * parts));
  if (call.grad_matrix)
    std::memset(call.grad_matrix, 0, size_t(heads * call.features * call.width) * 4);
  if (parts == 1) back_by_head(call, spread, threads);
  else back_by_part(call, spread, threads, parts);
}

void ceilings(double* rates) {
  rates[0] = multiply_adds();
  rates[1] = sines();
}

}  // namespace QKV_ISA
}  // namespace qkv
