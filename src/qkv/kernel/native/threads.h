// How the engine spreads its work: `body(argument)` runs once on each of so many threads, and the call returns
// when all are done.
#pragma once
#include <exception>
#include <mutex>

namespace qkv {

using Body = void (*)(void* argument);
using Spread = void (*)(int threads, Body body, void* argument);

// The same for a function object; what it throws on any thread is thrown here.
template <typename F>
void on_threads(Spread spread, int threads, F& work) {
  struct Job {
    F& work;
    std::mutex mutex;
    std::exception_ptr failed;
  } job{work, {}, nullptr};
  spread(
      threads,
      [](void* argument) {
        Job& job = *static_cast<Job*>(argument);
        try {
          job.work();
        } catch (...) {
          std::lock_guard<std::mutex> lock(job.mutex);
          job.failed = std::current_exception();
        }
      },
      &job);
  if (job.failed) std::rethrow_exception(job.failed);
}

}  // namespace qkv
