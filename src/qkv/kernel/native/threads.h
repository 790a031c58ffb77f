// How work is run on several threads.
#pragma once
#include <exception>
#include <mutex>

namespace qkv {

using Body = void (*)(void* argument);
// Runs `body(argument)` once on each of `threads` threads and returns when all have finished.
using RunOnThreads = void (*)(int threads, Body body, void* argument);

// The same for a function object.  An exception on any thread is rethrown here.
template <typename F>
void call_on_threads(RunOnThreads run_on_threads, int threads, F& work) {
  struct Job {
    F& work;
    std::mutex mutex;
    std::exception_ptr error;
  } job{work, {}, nullptr};
  run_on_threads(
      threads,
      [](void* argument) {
        Job& job = *static_cast<Job*>(argument);
        try {
          job.work();
        } catch (...) {
          std::lock_guard<std::mutex> lock(job.mutex);
          job.error = std::current_exception();
        }
      },
      &job);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace qkv
