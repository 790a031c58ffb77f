// The backward pass of heads whose tokens are cut into segments, for more threads than heads.
//
//   1. queries of all segments side by side:  gradients of the queries, and of the sums before each segment
//   2. one thread, last segment first:        the gradient of the sums after each segment
//   3. keys of all segments side by side:     gradients of keys, values and log weights, from 2
//   4. one thread:                            what is summed over the segments of a head
#pragma once
#include <vector>

#include "backward_keys.h"

namespace qkv {
namespace QKV_ISA {

class BackwardSegments {
 public:
  // states: the sums after every segment but the last, head by head; not used if not causal.
  BackwardSegments(const Call& call, int64_t segments, const std::vector<State>& states)
      : call_(call), s_(call), segments_(segments), states_(states) {
    const int64_t heads = call.batch * call.heads;
    for (int64_t i = 0; i < heads; ++i) query_gradients_.emplace_back(call.queries + C);
    for (int64_t i = 0; i < heads * segments; ++i) {
      grad_states_.emplace_back(s_);
      grad_projections_.emplace_back(call.grad_projection ? s_.features * s_.width : 0);
    }
    grad_log_weight_sums_.resize(size_t(heads * segments));
  }

  // Step 1 for one segment.
  void process_queries(Backward& backward, int64_t i) {
    select_head(backward, i);
    if (i % segments_ == 0 || !call_.causal) backward.initialise_state_for_queries();
    else copy_state(s_, states_[size_t(i - 1)], backward.state);
    backward.process_queries(split_range(call_.queries, segments_, i % segments_), true);
    copy_state(s_, backward.grad_state, grad_states_[size_t(i)]);
    backward.add_grad_projection(grad_projections_[size_t(i)]);
  }

  // Step 2.
  void accumulate_grad_states() {
    Backward backward(call_);
    State grad_after(s_), grad_before(s_);
    for (int64_t i = int64_t(grad_states_.size()) - 1; i >= 0; --i) {
      if (i % segments_ == segments_ - 1) {
        select_head(backward, i);
        backward.initialise_grad_state();
        copy_state(s_, backward.grad_state, grad_after);
      }
      copy_state(s_, grad_states_[size_t(i)], grad_before);
      copy_state(s_, grad_after, grad_states_[size_t(i)]);
      add_later_gradient(s_, call_.causal ? carry_factor(i) : 1, grad_after, grad_before);
      copy_state(s_, grad_before, grad_after);
      if (!call_.causal && i % segments_ == 0)
        for (int64_t j = i; j < i + segments_; ++j) copy_state(s_, grad_after, grad_states_[size_t(j)]);
    }
  }

  // Step 3 for one segment.
  void process_keys(Backward& backward, int64_t i) {
    const Range range = split_range(call_.keys, segments_, i % segments_);
    select_head(backward, i);
    backward.initialise_state_for_queries();
    backward.initialise_grad_state();
    copy_state(s_, grad_states_[size_t(i)], backward.grad_state);
    backward.set_later_log_decay(call_.causal ? 0 : backward.sum_log_decay_from(range.end));
    backward.process_keys(range, grad_log_weight_sums_[size_t(i)]);
    if (i % segments_ == 0) backward.store_grad_initial_state();
    backward.add_grad_projection(grad_projections_[size_t(i)]);
  }

  // Step 4.
  void sum_over_segments() {
    for (size_t i = 0; i < grad_states_.size(); ++i) {
      if (call_.grad_projection) add_grad_projection(int64_t(i));
      if (call_.grad_log_decay) subtract_later_segments(int64_t(i));
    }
  }

 private:
  void select_head(Backward& backward, int64_t i) {
    const int64_t head = i / segments_;
    backward.select_head(head / call_.heads, head % call_.heads, query_gradients_[size_t(head)]);
    backward.clear_grad_state();
  }

  // The factor by which the sums before segment i are part of the sums after it.
  float carry_factor(int64_t i) const {
    if (!call_.has_key_weights) return 1;
    const int64_t head = i / segments_, segment = i % segments_;
    const Range range = split_range(call_.keys, segments_, segment);
    double log_decay = 0;
    for (int64_t t = range.begin; call_.log_decay && t < range.end; ++t)
      log_decay += call_.log_decay[head * call_.keys + t];
    const float log_scale_after = segment == segments_ - 1 ? call_.final_log_scale[head] : states_[size_t(i)].log_scale;
    const float log_scale_before = segment > 0 ? states_[size_t(i - 1)].log_scale
                                           : call_.initial_log_scale ? call_.initial_log_scale[head] : LOG_ZERO;
    return relative_weight(log_scale_before + float(log_decay), log_scale_after);
  }

  void add_grad_projection(int64_t i) const {
    float* target = call_.grad_projection + i / segments_ * s_.features * s_.width;
    for (int64_t j = 0; j < s_.features * s_.width; ++j) target[j] += grad_projections_[size_t(i)][j];
  }

  // The gradient of a log decay depends on all later keys, also on those of later segments.
  void subtract_later_segments(int64_t i) const {
    double later_sum = 0;
    for (int64_t j = i + 1; j % segments_ > 0; ++j) later_sum += grad_log_weight_sums_[size_t(j)];
    const Range range = split_range(call_.keys, segments_, i % segments_);
    float* grad = call_.grad_log_decay + i / segments_ * call_.keys;
    for (int64_t t = range.begin; t < range.end; ++t) grad[t] -= float(later_sum);
  }

  const Call& call_;
  Sizes s_;
  int64_t segments_;
  const std::vector<State>& states_;
  std::vector<QueryGradients> query_gradients_;
  std::vector<State> grad_states_;  // after step 1 of the sums before each segment, after step 2 of those after it
  std::vector<Buffer> grad_projections_;
  std::vector<double> grad_log_weight_sums_;
};

}  // namespace QKV_ISA
}  // namespace qkv
