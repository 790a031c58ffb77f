// The C interface: picks the engine of the best instruction set that this machine has, and owns the threads.
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
#include "threads.h"

namespace qkv {

#define QKV_DECLARE(ISA)                      \
  namespace ISA {                             \
  void forward(const Call&, Spread);          \
  void backward(const Call&, Spread);         \
  void additive(const Additive&, Spread);     \
  void additive_backward(const Additive&, Spread); \
  void few(const Few&, Spread);               \
  void whole(const Whole&, Spread);           \
  void ceilings(double*);                     \
  }
#define QKV_ENGINE(ISA, RUNS) \
  {#ISA, ISA::forward, ISA::backward, ISA::additive, ISA::additive_backward, ISA::few, ISA::whole, ISA::ceilings, RUNS}
QKV_DECLARE(generic)
#ifdef QKV_X86
QKV_DECLARE(avx2)
QKV_DECLARE(avx512)
#endif

namespace {

struct Engine {
  const char* name;
  void (*forward)(const Call&, Spread);
  void (*backward)(const Call&, Spread);
  void (*additive)(const Additive&, Spread);
  void (*additive_backward)(const Additive&, Spread);
  void (*few)(const Few&, Spread);
  void (*whole)(const Whole&, Spread);
  void (*ceilings)(double*);
  bool runs;
};

// Best first. QKV_NATIVE_ISA=name in the environment asks for less.
const Engine& engine() {
  static const Engine chosen = [] {
#ifdef QKV_X86
    __builtin_cpu_init();
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    const bool middle = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    const Engine engines[] = {
#ifdef QKV_X86
        QKV_ENGINE(avx512, wide),
        QKV_ENGINE(avx2, middle),
#endif
        QKV_ENGINE(generic, true),
    };
    const char* asked = std::getenv("QKV_NATIVE_ISA");
    for (const Engine& engine : engines)
      if (engine.runs && (!asked || !*asked || !std::strcmp(asked, engine.name))) return engine;
    return engines[sizeof engines / sizeof *engines - 1];
  }();
  return chosen;
}

// Threads that wait for the next call. One call at a time has them; another that comes meanwhile works alone.
class Pool {
 public:
  void run(int threads, Body body, void* argument) {
    std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
    if (threads <= 1 || !mine.owns_lock()) return body(argument);
    grow(threads - 1);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = body, argument_ = argument, open_ = std::min(threads - 1, here_), working_ = 0;
    }
    wake_.notify_all();
    body(argument);
    std::unique_lock<std::mutex> lock(mutex_);
    open_ = 0;
    done_.wait(lock, [&] { return working_ == 0; });
  }

 private:
  void grow(int threads) {
    try {
      for (; here_ < threads; ++here_) std::thread([this] { serve(); }).detach();
    } catch (const std::exception&) {  // the system has no more threads: those that are there do the work
    }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return open_ > 0; });
      --open_, ++working_;
      const Body body = body_;
      void* const argument = argument_;
      lock.unlock();
      body(argument);
      lock.lock();
      if (--working_ == 0) done_.notify_one();
    }
  }

  std::mutex busy_, mutex_;
  std::condition_variable wake_, done_;
  Body body_ = nullptr;
  void* argument_ = nullptr;
  int here_ = 0, open_ = 0, working_ = 0;
};

// GOMP_parallel of the OpenMP library that torch has loaded, where Python found it. Its threads are awake, and
// go on spinning for a while after torch's work: others would have to share their cores with them.
using Parallel = void (*)(Body body, void* argument, unsigned threads, unsigned flags);
std::atomic<Parallel> parallel{nullptr};

// Never destroyed: its threads outlive every static.
std::atomic<Pool*> pool{nullptr};

// A child of fork has none of the threads, neither these nor those, so it starts anew.
void start_anew() {
  pool = new Pool;
  parallel = nullptr;
}

void prepare() {
  static const int once = [] {
    pool = new Pool;
    return pthread_atfork(nullptr, nullptr, start_anew);
  }();
  (void)once;
}

void spread(int threads, Body body, void* argument) {
  prepare();
  const Parallel theirs = parallel;
  if (threads <= 1) return body(argument);
  if (theirs) return theirs(body, argument, unsigned(threads), 0);
  pool.load()->run(threads, body, argument);
}

// Large new tensors in large pages where the system leaves that to the program: clearing and mapping thousands
// of small ones takes longer than some of the work that fills them.
void in_large_pages(const void* data, int64_t bytes) {
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

void in_large_pages(const Call& call, const Rows& rows, int64_t positions, int64_t width) {
  in_large_pages(rows.data, call.batch * call.heads * positions * width * (call.half ? 2 : 4));
}

void sums_in_large_pages(const Call& call) {
  const int64_t rows = (call.map == GAUSSIAN ? 2 : 1) * call.features;
  in_large_pages(call.sums, call.batch * call.heads * rows * (call.value + 1) * 4);
}

template <typename C>
int guarded(void (*run)(const C&, Spread), const C& call) {
  try {
    run(call, spread);
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
  qkv::in_large_pages(*call, call->out, call->queries, call->value);
  qkv::sums_in_large_pages(*call);
  return qkv::guarded(qkv::engine().forward, *call);
}
QKV_EXPORT int qkv_backward(const qkv::Call* call) {
  qkv::in_large_pages(*call, call->grad_q, call->queries, call->width);
  qkv::in_large_pages(*call, call->grad_k, call->keys, call->width);
  qkv::in_large_pages(*call, call->grad_v, call->keys, call->value);
  return qkv::guarded(qkv::engine().backward, *call);
}
QKV_EXPORT int qkv_additive(const qkv::Additive* call) { return qkv::guarded(qkv::engine().additive, *call); }
QKV_EXPORT int qkv_additive_backward(const qkv::Additive* call) {
  return qkv::guarded(qkv::engine().additive_backward, *call);
}
QKV_EXPORT int qkv_few(const qkv::Few* call) { return qkv::guarded(qkv::engine().few, *call); }
QKV_EXPORT int qkv_whole(const qkv::Whole* call) {
  qkv::sums_in_large_pages(call->call);
  return qkv::guarded(qkv::engine().whole, *call);
}
QKV_EXPORT void qkv_use_threads(qkv::Parallel of_torch) {
  qkv::prepare();
  qkv::parallel = of_torch;
}
// Multiply-adds and pairs of sin and cos per second of one thread.
QKV_EXPORT void qkv_ceilings(double* rates) { qkv::engine().ceilings(rates); }
QKV_EXPORT const char* qkv_instruction_set() { return qkv::engine().name; }
QKV_EXPORT const char* qkv_compiler() { return QKV_COMPILER; }
QKV_EXPORT int64_t qkv_call_bytes() {
  return int64_t(sizeof(qkv::Call) + sizeof(qkv::Additive) + sizeof(qkv::Few) + sizeof(qkv::Whole));
}
}
