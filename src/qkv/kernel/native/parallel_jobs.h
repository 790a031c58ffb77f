// Jobs for several threads.  A thread starts with the same jobs at every call, so that it finds in the cache of its
// core what it left there at the call before.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

namespace qkv {
namespace QKV_ISA {

// A number that identifies the calling thread for as long as it lives.
inline unsigned thread_number() {
  static std::atomic<unsigned> counter{0};
  thread_local const unsigned number = counter++;
  return number;
}

// The jobs 0 ... count - 1 in one range for each thread.  A thread that has finished its range helps with the others.
class ParallelJobs {
 public:
  ParallelJobs(int64_t count, int threads) : count_(count), ranges_(size_t(threads)) {
    for (int i = 0; i < threads; ++i) ranges_[size_t(i)].next = begin(i);
  }

  // Calls f(job) for all jobs; all threads that take part call this.
  template <typename F>
  void for_each(F&& f) {
    const int threads = int(ranges_.size()), first = int(thread_number() % unsigned(threads));
    for (int i = 0; i < threads; ++i) {
      const int range = (first + i) % threads;
      for (int64_t job; (job = ranges_[size_t(range)].next++) < begin(range + 1);) f(job);
    }
  }

 private:
  struct alignas(64) JobRange {
    std::atomic<int64_t> next{0};
  };

  int64_t begin(int range) const { return count_ * range / int64_t(ranges_.size()); }

  int64_t count_;
  std::vector<JobRange> ranges_;
};

}  // namespace QKV_ISA
}  // namespace qkv
