// Jobs for threads, dealt so that a thread finds in its core's cache what it left there at the call before.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

namespace qkv {
namespace QKV_ISA {

// A number of the calling thread's own, for as long as it lives.
inline unsigned own_number() {
  static std::atomic<unsigned> numbers{0};
  thread_local const unsigned own = numbers++;
  return own;
}

// As many runs of jobs as threads. Each thread begins with the same run at every call, and helps with the others
// when that is done.
class Jobs {
 public:
  Jobs(int64_t many, int threads) : many_(many), runs_(size_t(threads)) {
    for (int run = 0; run < threads; ++run) runs_[size_t(run)].next = begin(run);
  }

  // f(job) for all jobs, with all threads that call this.
  template <typename F>
  void each(F&& f) {
    const int threads = int(runs_.size()), own = int(own_number() % unsigned(threads));
    for (int i = 0; i < threads; ++i) {
      const int run = (own + i) % threads;
      for (int64_t job; (job = runs_[size_t(run)].next++) < begin(run + 1);) f(job);
    }
  }

 private:
  struct alignas(64) Run {
    std::atomic<int64_t> next{0};
  };

  int64_t begin(int run) const { return many_ * run / int64_t(runs_.size()); }

  int64_t many_;
  std::vector<Run> runs_;
};

}  // namespace QKV_ISA
}  // namespace qkv
