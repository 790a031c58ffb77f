// Linear attention over heads and threads.  Compiled once for every instruction set.
#include <algorithm>

#include "backward_segments.h"
#include "forward.h"
#include "layer_step.h"
#include "parallel_jobs.h"
#include "peak_rates.h"
#include "threads.h"
#include "token_steps.h"

namespace qkv {
namespace QKV_ISA {

namespace {

constexpr int64_t MIN_SEGMENT = 8 * C;  // tokens of the shortest segment that pays for itself
constexpr int64_t MAX_STEP_TOKENS = 4;  // up to so many tokens, token steps are faster than a chunk

void accumulate_range(ChunkedAttention& attention, State& state, Range keys) {
  for (int64_t first = keys.begin; first < keys.end; first += C) {
    const int64_t tokens = std::min<int64_t>(C, keys.end - first);
    attention.read_keys(first, tokens);
    attention.accumulate_keys(state, tokens);
  }
}

// Stores what the backward pass needs of every query.
void store_query_sums(const Call& call, const ChunkedAttention& attention, int64_t first, int64_t tokens) {
  if (!call.denominators) return;
  const int64_t row = (attention.b * call.heads + attention.h) * call.queries + first;
  std::memcpy(call.denominators + row, attention.denominators, size_t(tokens) * 4);
  std::memcpy(call.weight_sums + row, attention.weight_sums, size_t(tokens) * 4);
  std::memcpy(call.squared_weight_sums + row, attention.squared_weight_sums, size_t(tokens) * 4);
  std::memcpy(call.max_log_weights + row, attention.max_log_weights, size_t(tokens) * 4);
}

void attend_range(const Call& call, ChunkedAttention& attention, const State& state, Range queries) {
  for (int64_t first = queries.begin; first < queries.end; first += C) {
    const int64_t tokens = std::min<int64_t>(C, queries.end - first);
    attention.read_queries(first, tokens);
    attention.attend_to_state(state, first, tokens);
    store_query_sums(call, attention, first, tokens);
  }
}

void process_causal_range(const Call& call, ChunkedAttention& attention, State& state, Range range) {
  for (int64_t first = range.begin; first < range.end; first += C) {
    const int64_t tokens = std::min<int64_t>(C, range.end - first);
    attention.read_queries_and_keys(first, tokens);
    attention.process_chunk(state, first, tokens);
    store_query_sums(call, attention, first, tokens);
  }
}

void select_head(const Call& call, ChunkedAttention& attention, int64_t head) {
  attention.select_head(head / call.heads, head % call.heads);
  attention.features.load_projection(attention.h, false);
}

// One job per head, token by token.
void forward_by_token(const Call& call, RunOnThreads run_on_threads, int threads) {
  ParallelJobs jobs(call.batch * call.heads, threads);
  auto body = [&] {
    TokenSteps steps(call);
    jobs.for_each([&](int64_t i) { steps.process_head(i / call.heads, i % call.heads); });
  };
  call_on_threads(run_on_threads, threads, body);
}

// One job per head, chunk by chunk.
void forward_by_head(const Call& call, RunOnThreads run_on_threads, int threads) {
  ParallelJobs jobs(call.batch * call.heads, threads);
  auto body = [&] {
    ChunkedAttention attention(call);
    State state{Sizes(call)};
    jobs.for_each([&](int64_t i) {
      select_head(call, attention, i);
      attention.initialise_state(state);
      if (call.causal) {
        process_causal_range(call, attention, state, {0, call.keys});
      } else {
        accumulate_range(attention, state, {0, call.keys});
        attend_range(call, attention, state, {0, call.queries});
      }
      attention.store_state(state, call.final_feature_sums, call.final_plain_sums, call.final_log_scale);
    });
  };
  call_on_threads(run_on_threads, threads, body);
}

// The prefix sums after each segment of each head: all segments are summed side by side, then combined in order.  If
// causal, the sums after the last segment are left out: no query reads them.
std::vector<State> sum_segments(const Call& call, RunOnThreads run_on_threads, int threads, int64_t segments) {
  const Sizes sizes(call);
  const int64_t count = call.batch * call.heads * segments;
  std::vector<State> states;
  for (int64_t i = 0; i < count; ++i) states.emplace_back(sizes);
  ParallelJobs jobs(count, threads);
  auto body = [&] {
    ChunkedAttention attention(call);
    jobs.for_each([&](int64_t i) {
      select_head(call, attention, i / segments);
      if (i % segments == 0) attention.initialise_state(states[size_t(i)]);
      if (!call.causal || i % segments < segments - 1)
        accumulate_range(attention, states[size_t(i)], split_range(call.keys, segments, i % segments));
    });
  };
  call_on_threads(run_on_threads, threads, body);
  for (int64_t i = 0; i < count; ++i)
    if (i % segments > 0) combine_states(sizes, call.has_key_weights, states[size_t(i - 1)], states[size_t(i)]);
  return states;
}

// For fewer heads than threads, one job per segment: each starts from the prefix sums of the segments before it.
void forward_by_segment(const Call& call, RunOnThreads run_on_threads, int threads, int64_t segments) {
  const Sizes sizes(call);
  const std::vector<State> states = sum_segments(call, run_on_threads, threads, segments);
  ParallelJobs jobs(call.batch * call.heads * segments, threads);
  auto body = [&] {
    ChunkedAttention attention(call);
    State state(sizes);
    jobs.for_each([&](int64_t i) {
      select_head(call, attention, i / segments);
      const bool is_last = i % segments == segments - 1;
      if (call.causal) {
        if (i % segments == 0) attention.initialise_state(state);
        else copy_state(sizes, states[i - 1], state);
        process_causal_range(call, attention, state, split_range(call.keys, segments, i % segments));
        if (is_last) attention.store_state(state, call.final_feature_sums, call.final_plain_sums, call.final_log_scale);
      } else {
        const State& final_state = states[i - i % segments + segments - 1];
        attend_range(call, attention, final_state, split_range(call.queries, segments, i % segments));
        if (is_last)
          attention.store_state(states[i], call.final_feature_sums, call.final_plain_sums, call.final_log_scale);
      }
    });
  };
  call_on_threads(run_on_threads, threads, body);
}

// How many segments each head is cut into, so that all threads have segments that are long enough.
int64_t count_segments(const Call& call) {
  const int64_t heads = call.batch * call.heads, tokens = std::max(call.keys, call.queries);
  const int64_t max_segments = std::max<int64_t>(tokens / MIN_SEGMENT, 1);
  return heads < call.threads ? std::min((call.threads + heads - 1) / heads, max_segments) : 1;
}

void backward_by_head(const Call& call, RunOnThreads run_on_threads, int threads) {
  const Sizes sizes(call);
  ParallelJobs jobs(call.batch * call.heads, threads);
  auto body = [&] {
    Backward backward(call);
    QueryGradients query_gradients(call.queries + C);
    jobs.for_each([&](int64_t i) {
      backward.select_head(i / call.heads, i % call.heads, query_gradients);
      backward.initialise_state_for_queries();
      backward.initialise_grad_state();
      backward.process_queries({0, call.queries}, !call.causal);
      double grad_log_weight_sum = 0;
      backward.process_keys({0, call.keys}, grad_log_weight_sum);
      backward.store_grad_initial_state();
      if (call.grad_projection)
        backward.add_grad_projection(call.grad_projection + i * sizes.features * sizes.width);
    });
  };
  call_on_threads(run_on_threads, threads, body);
}

void backward_by_segment(const Call& call, RunOnThreads run_on_threads, int threads, int64_t segments) {
  std::vector<State> states;
  if (call.causal) states = sum_segments(call, run_on_threads, threads, segments);
  BackwardSegments pass(call, segments, states);
  auto run_step = [&](void (BackwardSegments::*step)(Backward&, int64_t)) {
    ParallelJobs jobs(call.batch * call.heads * segments, threads);
    auto body = [&] {
      Backward backward(call);
      jobs.for_each([&](int64_t i) { (pass.*step)(backward, i); });
    };
    call_on_threads(run_on_threads, threads, body);
  };
  run_step(&BackwardSegments::process_queries);
  pass.accumulate_grad_states();
  run_step(&BackwardSegments::process_keys);
  pass.sum_over_segments();
}

}  // namespace

void forward(const Call& call, RunOnThreads run_on_threads) {
  const int64_t heads = call.batch * call.heads;
  if (heads == 0) return;
  const int64_t segments = count_segments(call);
  const int threads = int(std::min<int64_t>(call.threads, heads * segments));
  if (call.causal && call.keys > 0 && call.keys <= MAX_STEP_TOKENS) forward_by_token(call, run_on_threads, threads);
  else if (segments == 1) forward_by_head(call, run_on_threads, threads);
  else forward_by_segment(call, run_on_threads, threads, segments);
}

void backward(const Call& call, RunOnThreads run_on_threads) {
  const int64_t heads = call.batch * call.heads;
  if (heads == 0) return;
  const int64_t segments = count_segments(call);
  const int threads = int(std::min<int64_t>(call.threads, heads * segments));
  if (call.grad_projection)
    std::memset(call.grad_projection, 0, size_t(heads * call.features * call.key_width) * 4);
  if (segments == 1) backward_by_head(call, run_on_threads, threads);
  else backward_by_segment(call, run_on_threads, threads, segments);
}

void peak_rates(double* rates) {
  rates[0] = measure_multiply_adds();
  rates[1] = measure_sin_cos();
}

}  // namespace QKV_ISA
}  // namespace qkv
