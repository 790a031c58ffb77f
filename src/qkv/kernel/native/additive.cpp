// The additive score and its gradient: no sum or tanh of a pair is ever stored.  Compiled once for every
// instruction set, as engine.cpp is.
#include "additive.h"

#include <algorithm>
#include <vector>

#include "jobs.h"
#include "threads.h"
#include "vector.h"

namespace qkv {
namespace QKV_ISA {
namespace {

// Keys of a block: with their gradients they stay in the second cache while all queries pass.
constexpr int64_t KEYS = 4 * L < 32 ? 32 : 4 * L;

QKV_INLINE Floats tanh(Floats x) { return 1.0f - 2.0f / (exponential(x + x) + 1.0f); }

// Which queries of which row and head; part p of the queries of a head has scratch of its own.
struct Work {
  int64_t row, head, begin, end, part;
};

struct Split {
  int64_t parts, jobs;
  explicit Split(const Additive& call) {
    const int64_t heads = std::max<int64_t>(call.batch * call.heads, 1);
    const int64_t wanted = (call.threads + heads - 1) / heads;
    parts = std::max<int64_t>(std::min(wanted, call.queries), 1);
    jobs = call.batch * call.heads * parts;
  }
  Work work(const Additive& call, int64_t i) const {
    const int64_t each = (call.queries + parts - 1) / parts, part = i % parts, head = i / parts;
    const int64_t begin = std::min(part * each, call.queries);
    return {head / call.heads, head % call.heads, begin, std::min(begin + each, call.queries), part};
  }
};

const float* row_of(const Rows& rows, int64_t batch, int64_t head, int64_t position) {
  return static_cast<const float*>(rows.data) + batch * rows.batch + head * rows.head + position * rows.position;
}
float* row_of(Rows& rows, int64_t batch, int64_t head, int64_t position) {
  return static_cast<float*>(rows.data) + batch * rows.batch + head * rows.head + position * rows.position;
}

// Rows are filled up with zeros to whole vectors, which add nothing: tanh 0 = 0 and v = 0. One vector more
// keeps rows from falling on the same lines of the cache.
struct Buffers {
  int64_t vectors, stride;
  std::vector<float> q, v, k, grad_q, grad_v, grad_k;
  explicit Buffers(int64_t width, bool backward)
      : vectors((width + L - 1) / L), stride((vectors + 1) * L), q(stride), v(stride), k(KEYS * stride) {
    if (backward) grad_q.resize(stride), grad_v.resize(stride), grad_k.resize(KEYS * stride);
  }
};

void score_block(const Additive& call, const Work& work, Buffers& at, int64_t first, int64_t count) {
  for (int64_t t = work.begin; t < work.end; ++t) {
    const float* q = row_of(call.q, work.row, work.head, t);
    std::copy(q, q + call.width, at.q.begin());
    float* out = call.scores + ((work.row * call.heads + work.head) * call.queries + t) * call.keys + first;
    for (int64_t s = 0; s < count; s += L) {
      Floats sum[L];
      const int many = int(std::min<int64_t>(L, count - s));
      for (int i = 0; i < L; ++i) sum[i] = Floats{};
      for (int i = 0; i < many; ++i) {
        const float* k = at.k.data() + (s + i) * at.stride;
        Floats here{};
        for (int64_t a = 0; a < at.vectors * L; a += L)
          here += load(at.v.data() + a) * tanh(load(at.q.data() + a) + load(k + a));
        sum[i] = here;
      }
      const Floats scores = row_sums(sum);
      if (many == L) store(out + s, scores);
      else std::copy(reinterpret_cast<const float*>(&scores), reinterpret_cast<const float*>(&scores) + many, out + s);
    }
  }
}

void gradient_block(Additive& call, const Work& work, Buffers& at, int64_t first, int64_t count) {
  for (int64_t t = work.begin; t < work.end; ++t) {
    const float* q = row_of(call.q, work.row, work.head, t);
    float* grad_q = row_of(call.grad_q, work.row, work.head, t);
    std::copy(q, q + call.width, at.q.begin());
    const float* grad =
        call.grad + ((work.row * call.heads + work.head) * call.queries + t) * call.keys + first;
    for (int64_t a = 0; a < at.vectors * L; a += L) {
      const Floats query = load(at.q.data() + a), v = load(at.v.data() + a);
      Floats of_q{}, of_v{};
      for (int64_t s = 0; s < count; ++s) {
        float* grad_k = at.grad_k.data() + s * at.stride + a;
        const Floats y = tanh(query + load(at.k.data() + s * at.stride + a)), g = all(grad[s]);
        const Floats inner = g * (1.0f - y * y);
        of_v += g * y;
        of_q += inner;
        store(grad_k, load(grad_k) + inner * v);
      }
      store(at.grad_q.data() + a, of_q * v);
      store(at.grad_v.data() + a, load(at.grad_v.data() + a) + of_v);
    }
    for (int64_t a = 0; a < call.width; ++a) grad_q[a] += at.grad_q[size_t(a)];
  }
}

void open(const Additive& call, const Work& work, Buffers& at) {
  const float* v = call.v + work.head * call.width;
  std::copy(v, v + call.width, at.v.begin());
  std::fill(at.grad_v.begin(), at.grad_v.end(), 0.0f);
}

void read_keys(const Additive& call, const Work& work, Buffers& at, int64_t first, int64_t count) {
  for (int64_t s = 0; s < count; ++s) {
    const float* k = row_of(call.k, work.row, work.head, first + s);
    std::copy(k, k + call.width, at.k.begin() + s * at.stride);
  }
  std::fill(at.grad_k.begin(), at.grad_k.end(), 0.0f);
}

template <typename F>
void each_job(const Additive& call, Spread spread, bool backward, F run) {
  const Split split(call);
  const int threads = int(std::max<int64_t>(std::min(call.threads, split.jobs), 1));
  Jobs jobs(split.jobs, threads);
  auto body = [&] {
    Buffers at(call.width, backward);
    jobs.each([&](int64_t i) { run(split, split.work(call, i), at); });
  };
  on_threads(spread, threads, body);
}

}  // namespace

void additive(const Additive& call, Spread spread) {
  each_job(call, spread, false, [&](const Split&, const Work& work, Buffers& at) {
    open(call, work, at);
    for (int64_t s = 0; s < call.keys; s += KEYS) {
      const int64_t count = std::min(KEYS, call.keys - s);
      read_keys(call, work, at, s, count);
      score_block(call, work, at, s, count);
    }
  });
}

// The gradients of keys and of v are sums over queries: every part of a head's queries sums its own, and the
// parts are added in their order, so that results repeat.
void additive_backward(const Additive& given, Spread spread) {
  const int64_t heads = given.batch * given.heads, rows = given.keys * given.width;
  const Split split(given);
  std::vector<float> of_keys(size_t(heads * split.parts * rows)), of_v(size_t(heads * split.parts * given.width));
  each_job(given, spread, true, [&](const Split& split, const Work& work, Buffers& at) {
    Additive call = given;
    const int64_t job = (work.row * call.heads + work.head) * split.parts + work.part;
    open(call, work, at);
    for (int64_t t = work.begin; t < work.end; ++t) {
      float* grad_q = row_of(call.grad_q, work.row, work.head, t);
      std::fill(grad_q, grad_q + call.width, 0.0f);
    }
    for (int64_t s = 0; s < call.keys; s += KEYS) {
      const int64_t count = std::min(KEYS, call.keys - s);
      read_keys(call, work, at, s, count);
      gradient_block(call, work, at, s, count);
      for (int64_t i = 0; i < count; ++i)
        std::copy_n(at.grad_k.data() + i * at.stride, call.width, of_keys.data() + job * rows + (s + i) * call.width);
    }
    std::copy_n(at.grad_v.data(), call.width, of_v.data() + job * call.width);
  });
  Additive call = given;
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t part = 0; part < split.parts; ++part) {
      const float* keys = of_keys.data() + (head * split.parts + part) * rows;
      const float* v = of_v.data() + (head * split.parts + part) * call.width;
      for (int64_t s = 0; s < call.keys; ++s) {
        float* grad_k = row_of(call.grad_k, head / call.heads, head % call.heads, s);
        for (int64_t a = 0; a < call.width; ++a) grad_k[a] = (part ? grad_k[a] : 0.0f) + keys[s * call.width + a];
      }
      float* grad_v = call.grad_v + head * call.width;
      for (int64_t a = 0; a < call.width; ++a) grad_v[a] = (part ? grad_v[a] : 0.0f) + v[a];
    }
}

}  // namespace QKV_ISA
}  // namespace qkv
