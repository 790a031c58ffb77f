// The C interface: selects the engine compiled for the best instruction set of this machine, and owns the threads.
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "additive.h"
#include "call.h"
#include "layout.h"
#include "threads.h"

namespace qkv {

#define QKV_DECLARE(ISA)                                           \
  namespace ISA {                                                  \
  void forward(const Call&, RunOnThreads);                         \
  void backward(const Call&, RunOnThreads);                        \
  void additive_score(const AdditiveScore&, RunOnThreads);         \
  void additive_score_backward(const AdditiveScore&, RunOnThreads); \
  void small_linear(const SmallLinear&, RunOnThreads);             \
  void layer_step(const LayerStep&, RunOnThreads);                 \
  void peak_rates(double*);                                        \
  }
#define QKV_ENGINE(ISA, IS_SUPPORTED)                                                                          \
  {#ISA, ISA::forward, ISA::backward, ISA::additive_score, ISA::additive_score_backward, ISA::small_linear,    \
   ISA::layer_step, ISA::peak_rates, IS_SUPPORTED}
QKV_DECLARE(generic)
#ifdef QKV_X86
QKV_DECLARE(avx2)
QKV_DECLARE(avx512)
#endif

namespace {

struct Engine {
  const char* name;
  void (*forward)(const Call&, RunOnThreads);
  void (*backward)(const Call&, RunOnThreads);
  void (*additive_score)(const AdditiveScore&, RunOnThreads);
  void (*additive_score_backward)(const AdditiveScore&, RunOnThreads);
  void (*small_linear)(const SmallLinear&, RunOnThreads);
  void (*layer_step)(const LayerStep&, RunOnThreads);
  void (*peak_rates)(double*);
  bool is_supported;
};

// The best engine that runs here, or the one that QKV_NATIVE_ISA in the environment names.
const Engine& select_engine() {
  static const Engine selected = [] {
#ifdef QKV_X86
    __builtin_cpu_init();
    const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    const Engine engines[] = {  // best first
#ifdef QKV_X86
        QKV_ENGINE(avx512, has_avx512),
        QKV_ENGINE(avx2, has_avx2),
#endif
        QKV_ENGINE(generic, true),
    };
    const char* requested = std::getenv("QKV_NATIVE_ISA");
    for (const Engine& engine : engines)
      if (engine.is_supported && (!requested || !*requested || !std::strcmp(requested, engine.name))) return engine;
    return engines[sizeof engines / sizeof *engines - 1];
  }();
  return selected;
}

// Threads that wait for the next call.  One call at a time uses them; a call on another thread in the meantime runs
// without them.
class ThreadPool {
 public:
  void run(int threads, Body body, void* argument) {
    std::unique_lock<std::mutex> is_free(in_use_, std::try_to_lock);
    if (threads <= 1 || !is_free.owns_lock()) return body(argument);
    grow(threads - 1);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = body, argument_ = argument, open_places_ = std::min(threads - 1, started_), working_ = 0;
    }
    start_.notify_all();
    body(argument);
    std::unique_lock<std::mutex> lock(mutex_);
    open_places_ = 0;
    finished_.wait(lock, [&] { return working_ == 0; });
  }

 private:
  void grow(int threads) {
    try {
      for (; started_ < threads; ++started_) std::thread([this] { run_bodies(); }).detach();
    } catch (const std::exception&) {  // the system has no more threads: the started ones do the work
    }
  }

  void run_bodies() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      start_.wait(lock, [&] { return open_places_ > 0; });
      --open_places_, ++working_;
      const Body body = body_;
      void* const argument = argument_;
      lock.unlock();
      body(argument);
      lock.lock();
      if (--working_ == 0) finished_.notify_one();
    }
  }

  std::mutex in_use_, mutex_;
  std::condition_variable start_, finished_;
  Body body_ = nullptr;
  void* argument_ = nullptr;
  int started_ = 0, open_places_ = 0, working_ = 0;
};

// GOMP_parallel of the OpenMP library that torch has loaded, if Python found it.  Its threads keep spinning for a while
// after torch's work; other threads would have to share their cores with them.
using OpenMPParallel = void (*)(Body body, void* argument, unsigned threads, unsigned flags);
std::atomic<OpenMPParallel> openmp_parallel{nullptr};

// Never destroyed: its threads outlive every static object.
std::atomic<ThreadPool*> pool{nullptr};

// A forked child has neither the threads of the pool nor those of OpenMP.
void reset_after_fork() {
  pool = new ThreadPool;
  openmp_parallel = nullptr;
}

void create_pool_once() {
  static const int result = [] {
    pool = new ThreadPool;
    return pthread_atfork(nullptr, nullptr, reset_after_fork);
  }();
  (void)result;
}

void run_on_threads(int threads, Body body, void* argument) {
  create_pool_once();
  const OpenMPParallel parallel = openmp_parallel;
  if (threads <= 1) return body(argument);
  if (parallel) return parallel(body, argument, unsigned(threads), 0);
  pool.load()->run(threads, body, argument);
}

// Asks the system to map a large new tensor in large pages: clearing and mapping thousands of small pages takes longer
// than some of the work that fills them.
void use_large_pages(const void* data, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t PAGE = uintptr_t(1) << 21;
  if (!data) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + PAGE - 1) / PAGE * PAGE;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + uintptr_t(bytes)) / PAGE * PAGE;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

void use_large_pages(const Call& call, const StridedTensor& x, int64_t positions, int64_t width) {
  use_large_pages(x.data, call.batch * call.heads * positions * width * (call.is_bfloat16 ? 2 : 4));
}

void use_large_pages_for_sums(const Call& call) {
  const int64_t features = (call.map == GAUSSIAN ? 2 : 1) * call.features;
  use_large_pages(call.final_feature_sums, call.batch * call.heads * features * (call.value_width + 1) * 4);
}

// Runs a call; 1 if it ran out of memory or threads, otherwise 0.
template <typename C>
int catch_errors(void (*function)(const C&, RunOnThreads), const C& call) {
  try {
    function(call, run_on_threads);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

}  // namespace
}  // namespace qkv

extern "C" {
#define QKV_EXPORT __attribute__((visibility("default")))
QKV_EXPORT int qkv_forward(const qkv::Call* call) {
  qkv::use_large_pages(*call, call->out, call->queries, call->value_width);
  qkv::use_large_pages_for_sums(*call);
  return qkv::catch_errors(qkv::select_engine().forward, *call);
}
QKV_EXPORT int qkv_backward(const qkv::Call* call) {
  qkv::use_large_pages(*call, call->grad_q, call->queries, call->key_width);
  qkv::use_large_pages(*call, call->grad_k, call->keys, call->key_width);
  qkv::use_large_pages(*call, call->grad_v, call->keys, call->value_width);
  return qkv::catch_errors(qkv::select_engine().backward, *call);
}
QKV_EXPORT int qkv_additive_score(const qkv::AdditiveScore* call) {
  return qkv::catch_errors(qkv::select_engine().additive_score, *call);
}
QKV_EXPORT int qkv_additive_score_backward(const qkv::AdditiveScore* call) {
  return qkv::catch_errors(qkv::select_engine().additive_score_backward, *call);
}
QKV_EXPORT int qkv_small_linear(const qkv::SmallLinear* call) {
  return qkv::catch_errors(qkv::select_engine().small_linear, *call);
}
QKV_EXPORT int qkv_layer_step(const qkv::LayerStep* call) {
  qkv::use_large_pages_for_sums(call->attention);
  return qkv::catch_errors(qkv::select_engine().layer_step, *call);
}
QKV_EXPORT void qkv_use_openmp(qkv::OpenMPParallel parallel) {
  qkv::create_pool_once();
  qkv::openmp_parallel = parallel;
}
// Multiply-adds, and pairs of sine and cosine, per second of one thread.
QKV_EXPORT void qkv_peak_rates(double* rates) { qkv::select_engine().peak_rates(rates); }
QKV_EXPORT const char* qkv_instruction_set() { return qkv::select_engine().name; }
QKV_EXPORT const char* qkv_compiler() { return QKV_COMPILER; }
QKV_EXPORT const qkv::FieldLayout* qkv_layout() { return qkv::LAYOUT; }
}
