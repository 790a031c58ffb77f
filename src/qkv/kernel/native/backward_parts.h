// The gradients of a few heads on more threads: every head's tokens in `parts` runs.  Sums of keys go on from run to
// run, what queries want of them goes back, and in between the runs work side by side.
#pragma once
#include <vector>

#include "backward_keys.h"

namespace qkv {
namespace QKV_ISA {

class BackwardParts {
 public:
  // ends: the sums after every run but the last, head by head; not needed where it is not causal.
  BackwardParts(const Call& call, int64_t parts, const std::vector<State>& ends)
      : call_(call), s_(call), parts_(parts), ends_(ends) {
    const int64_t heads = call.batch * call.heads;
    for (int64_t i = 0; i < heads; ++i) slopes_.emplace_back(call.queries + C);
    for (int64_t i = 0; i < heads * parts; ++i) {
      back_.emplace_back(s_);
      matrices_.emplace_back(call.grad_matrix ? s_.features * s_.width : 0);
    }
    written_.resize(size_t(heads * parts));
  }

  void queries_of(Backward& chunks, int64_t i) {
    open(chunks, i);
    if (i % parts_ == 0 || !call_.causal) chunks.begin_state();
    else copy(s_, ends_[size_t(i - 1)], chunks.state);
    chunks.run_queries(part_of(call_.queries, parts_, i % parts_), true);
    copy(s_, chunks.back, back_[size_t(i)]);
    chunks.finish_matrix(matrices_[size_t(i)]);
  }

  // Every run's `back` becomes what all later queries, and the final state, want of the sums after it.
  void hand_back() {
    Backward chunks(call_);
    State after(s_), gathered(s_);
    for (int64_t i = int64_t(back_.size()) - 1; i >= 0; --i) {
      if (i % parts_ == parts_ - 1) {
        open(chunks, i);
        chunks.begin_back();
        copy(s_, chunks.back, after);
      }
      copy(s_, back_[size_t(i)], gathered);
      copy(s_, after, back_[size_t(i)]);
      precede(s_, call_.causal ? left_of(i) : 1, after, gathered);
      copy(s_, gathered, after);
      if (!call_.causal && i % parts_ == 0)
        for (int64_t j = i; j < i + parts_; ++j) copy(s_, after, back_[size_t(j)]);
    }
  }

  void keys_of(Backward& chunks, int64_t i) {
    const Part part = part_of(call_.keys, parts_, i % parts_);
    open(chunks, i);
    chunks.begin_state();
    chunks.begin_back();
    copy(s_, back_[size_t(i)], chunks.back);
    chunks.fade(call_.causal ? 0 : chunks.faded_from(part.end));
    chunks.run_keys(part, written_[size_t(i)]);
    if (i % parts_ == 0) chunks.finish_state();
    chunks.finish_matrix(matrices_[size_t(i)]);
  }

  // What is summed over the runs of a head.
  void add_up() {
    for (size_t i = 0; i < back_.size(); ++i) {
      if (call_.grad_matrix) add_matrix(int64_t(i));
      if (call_.grad_decay) add_later(int64_t(i));
    }
  }

 private:
  void open(Backward& chunks, int64_t i) {
    const int64_t head = i / parts_;
    chunks.open(head / call_.heads, head % call_.heads, slopes_[size_t(head)]);
    chunks.clear_back();
  }

  // How much of the sums before run i is there after it.
  float left_of(int64_t i) const {
    if (!call_.weighed) return 1;
    const int64_t head = i / parts_, part = i % parts_;
    const Part tokens = part_of(call_.keys, parts_, part);
    double faded = 0;
    for (int64_t t = tokens.begin; call_.decay && t < tokens.end; ++t) faded += call_.decay[head * call_.keys + t];
    const float end = part == parts_ - 1 ? call_.scale[head] : ends_[size_t(i)].scale;
    const float begin = part > 0 ? ends_[size_t(i - 1)].scale : call_.scale0 ? call_.scale0[head] : NOTHING;
    return share_of(begin + float(faded), end);
  }

  void add_matrix(int64_t i) const {
    float* to = call_.grad_matrix + i / parts_ * s_.features * s_.width;
    for (int64_t j = 0; j < s_.features * s_.width; ++j) to[j] += matrices_[size_t(i)][j];
  }

  // The gradient of a gate counts all later keys, also those of later runs.
  void add_later(int64_t i) const {
    double later = 0;
    for (int64_t j = i + 1; j % parts_ > 0; ++j) later += written_[size_t(j)];
    const Part part = part_of(call_.keys, parts_, i % parts_);
    float* grad = call_.grad_decay + i / parts_ * call_.keys;
    for (int64_t t = part.begin; t < part.end; ++t) grad[t] -= float(later);
  }

  const Call& call_;
  Sizes s_;
  int64_t parts_;
  const std::vector<State>& ends_;
  std::vector<Slopes> slopes_;
  std::vector<State> back_;
  std::vector<Buffer> matrices_;
  std::vector<double> written_;
};

}  // namespace QKV_ISA
}  // namespace qkv
