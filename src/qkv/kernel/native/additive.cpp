// The additive score and its gradient, without storing any sum or tanh of a pair.  Compiled once for every instruction
// set.
#include "additive.h"

#include <algorithm>
#include <vector>

#include "parallel_jobs.h"
#include "threads.h"
#include "vector.h"

namespace qkv {
namespace QKV_ISA {
namespace {

// Keys of a block: they and their gradients stay in the second-level cache while all queries are processed.
constexpr int64_t BLOCK_KEYS = 4 * L < 32 ? 32 : 4 * L;

QKV_INLINE Floats tanh(Floats x) { return 1.0f - 2.0f / (exponential(x + x) + 1.0f); }

// Some of the queries of one head; `part` numbers them among those of the head.
struct Job {
  int64_t row, head, begin, end, part;
};

// The queries of every head in equal parts, one job each: more parts where there are fewer heads than threads.
struct JobList {
  int64_t parts, count;
  explicit JobList(const AdditiveScore& call) {
    const int64_t heads = std::max<int64_t>(call.batch * call.heads, 1);
    const int64_t threads_per_head = (call.threads + heads - 1) / heads;
    parts = std::max<int64_t>(std::min(threads_per_head, call.queries), 1);
    count = call.batch * call.heads * parts;
  }
  Job job(const AdditiveScore& call, int64_t i) const {
    const int64_t queries = (call.queries + parts - 1) / parts, part = i % parts, head = i / parts;
    const int64_t begin = std::min(part * queries, call.queries);
    return {head / call.heads, head % call.heads, begin, std::min(begin + queries, call.queries), part};
  }
};

const float* row_address(const StridedTensor& x, int64_t batch, int64_t head, int64_t position) {
  return static_cast<const float*>(x.data) + batch * x.batch_stride + head * x.head_stride +
         position * x.position_stride;
}
float* row_address(StridedTensor& x, int64_t batch, int64_t head, int64_t position) {
  return static_cast<float*>(x.data) + batch * x.batch_stride + head * x.head_stride + position * x.position_stride;
}

// Copies of one query, of v, and of a block of keys, and their gradients.  Rows are padded with zeros to whole vectors,
// which add nothing: tanh 0 = 0 and v = 0.  One more vector keeps rows from competing for the same cache sets.
struct Buffers {
  int64_t vectors, stride;
  std::vector<float> q, v, k, grad_q, grad_v, grad_k;
  explicit Buffers(int64_t width, bool backward)
      : vectors((width + L - 1) / L), stride((vectors + 1) * L), q(stride), v(stride), k(BLOCK_KEYS * stride) {
    if (backward) grad_q.resize(stride), grad_v.resize(stride), grad_k.resize(BLOCK_KEYS * stride);
  }
};

// Scores of the job's queries with `count` keys from `first` on, L keys at a time.
void compute_scores(const AdditiveScore& call, const Job& job, Buffers& buffers, int64_t first, int64_t count) {
  for (int64_t t = job.begin; t < job.end; ++t) {
    const float* q = row_address(call.q, job.row, job.head, t);
    std::copy(q, q + call.width, buffers.q.begin());
    float* out = call.scores + ((job.row * call.heads + job.head) * call.queries + t) * call.keys + first;
    for (int64_t s = 0; s < count; s += L) {
      Floats sum[L];
      const int keys = int(std::min<int64_t>(L, count - s));
      for (int i = 0; i < L; ++i) sum[i] = Floats{};
      for (int i = 0; i < keys; ++i) {
        const float* k = buffers.k.data() + (s + i) * buffers.stride;
        // v [A] @ tanh(q + k) [A].
        Floats partial{};
        for (int64_t a = 0; a < buffers.vectors * L; a += L)
          partial += load(buffers.v.data() + a) * tanh(load(buffers.q.data() + a) + load(k + a));
        sum[i] = partial;
      }
      const Floats scores = sum_rows(sum);
      if (keys == L) store(out + s, scores);
      else std::copy(reinterpret_cast<const float*>(&scores), reinterpret_cast<const float*>(&scores) + keys, out + s);
    }
  }
}

// With y = tanh(q + k) and the gradient g of a score: grad_q and grad_k += g v (1 - y^2), grad_v += g y.
void compute_gradients(AdditiveScore& call, const Job& job, Buffers& buffers, int64_t first, int64_t count) {
  for (int64_t t = job.begin; t < job.end; ++t) {
    const float* q = row_address(call.q, job.row, job.head, t);
    float* grad_q = row_address(call.grad_q, job.row, job.head, t);
    std::copy(q, q + call.width, buffers.q.begin());
    const float* grad_scores =
        call.grad_scores + ((job.row * call.heads + job.head) * call.queries + t) * call.keys + first;
    for (int64_t a = 0; a < buffers.vectors * L; a += L) {
      const Floats query = load(buffers.q.data() + a), v = load(buffers.v.data() + a);
      Floats grad_query{}, grad_v{};
      for (int64_t s = 0; s < count; ++s) {
        float* grad_k = buffers.grad_k.data() + s * buffers.stride + a;
        const Floats y = tanh(query + load(buffers.k.data() + s * buffers.stride + a)), g = broadcast(grad_scores[s]);
        const Floats grad_inner = g * (1.0f - y * y);
        grad_v += g * y;
        grad_query += grad_inner;
        store(grad_k, load(grad_k) + grad_inner * v);
      }
      store(buffers.grad_q.data() + a, grad_query * v);
      store(buffers.grad_v.data() + a, load(buffers.grad_v.data() + a) + grad_v);
    }
    for (int64_t a = 0; a < call.width; ++a) grad_q[a] += buffers.grad_q[size_t(a)];
  }
}

void load_v(const AdditiveScore& call, const Job& job, Buffers& buffers) {
  const float* v = call.v + job.head * call.width;
  std::copy(v, v + call.width, buffers.v.begin());
  std::fill(buffers.grad_v.begin(), buffers.grad_v.end(), 0.0f);
}

void load_keys(const AdditiveScore& call, const Job& job, Buffers& buffers, int64_t first, int64_t count) {
  for (int64_t s = 0; s < count; ++s) {
    const float* k = row_address(call.k, job.row, job.head, first + s);
    std::copy(k, k + call.width, buffers.k.begin() + s * buffers.stride);
  }
  std::fill(buffers.grad_k.begin(), buffers.grad_k.end(), 0.0f);
}

// Calls process(job list, job, buffers) for all jobs, on threads.
template <typename F>
void for_each_job(const AdditiveScore& call, RunOnThreads run_on_threads, bool backward, F process) {
  const JobList list(call);
  const int threads = int(std::max<int64_t>(std::min(call.threads, list.count), 1));
  ParallelJobs jobs(list.count, threads);
  auto body = [&] {
    Buffers buffers(call.width, backward);
    jobs.for_each([&](int64_t i) { process(list, list.job(call, i), buffers); });
  };
  call_on_threads(run_on_threads, threads, body);
}

}  // namespace

void additive_score(const AdditiveScore& call, RunOnThreads run_on_threads) {
  for_each_job(call, run_on_threads, false, [&](const JobList&, const Job& job, Buffers& buffers) {
    load_v(call, job, buffers);
    for (int64_t s = 0; s < call.keys; s += BLOCK_KEYS) {
      const int64_t count = std::min(BLOCK_KEYS, call.keys - s);
      load_keys(call, job, buffers, s, count);
      compute_scores(call, job, buffers, s, count);
    }
  });
}

// The gradients of keys and of v are sums over queries.  Every part of a head's queries has sums of its own; they are
// added in the order of the parts, so that results repeat.
void additive_score_backward(const AdditiveScore& inputs, RunOnThreads run_on_threads) {
  const int64_t heads = inputs.batch * inputs.heads, key_numbers = inputs.keys * inputs.width;
  const JobList list(inputs);
  std::vector<float> grad_keys(size_t(heads * list.parts * key_numbers));
  std::vector<float> grad_vs(size_t(heads * list.parts * inputs.width));
  for_each_job(inputs, run_on_threads, true, [&](const JobList& list, const Job& job, Buffers& buffers) {
    AdditiveScore call = inputs;
    const int64_t index = (job.row * call.heads + job.head) * list.parts + job.part;
    load_v(call, job, buffers);
    for (int64_t t = job.begin; t < job.end; ++t) {
      float* grad_q = row_address(call.grad_q, job.row, job.head, t);
      std::fill(grad_q, grad_q + call.width, 0.0f);
    }
    for (int64_t s = 0; s < call.keys; s += BLOCK_KEYS) {
      const int64_t count = std::min(BLOCK_KEYS, call.keys - s);
      load_keys(call, job, buffers, s, count);
      compute_gradients(call, job, buffers, s, count);
      for (int64_t i = 0; i < count; ++i) {
        float* target = grad_keys.data() + index * key_numbers + (s + i) * call.width;
        std::copy_n(buffers.grad_k.data() + i * buffers.stride, call.width, target);
      }
    }
    std::copy_n(buffers.grad_v.data(), call.width, grad_vs.data() + index * call.width);
  });
  AdditiveScore call = inputs;
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t part = 0; part < list.parts; ++part) {
      const float* part_keys = grad_keys.data() + (head * list.parts + part) * key_numbers;
      const float* part_v = grad_vs.data() + (head * list.parts + part) * call.width;
      for (int64_t s = 0; s < call.keys; ++s) {
        float* grad_k = row_address(call.grad_k, head / call.heads, head % call.heads, s);
        for (int64_t a = 0; a < call.width; ++a) grad_k[a] = (part ? grad_k[a] : 0.0f) + part_keys[s * call.width + a];
      }
      float* grad_v = call.grad_v + head * call.width;
      for (int64_t a = 0; a < call.width; ++a) grad_v[a] = (part ? grad_v[a] : 0.0f) + part_v[a];
    }
}

}  // namespace QKV_ISA
}  // namespace qkv
