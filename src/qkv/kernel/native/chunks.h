// Chunked linear attention of one head.
//
// The tokens are processed in chunks of C.  With the feature map phi, key s has the weight m_ts at query t, and
//
//   out_t = sum_s m_ts (phi(q_t) . phi(k_s)) v_s / sum_s m_ts (phi(q_t) . phi(k_s))          s = 0 ... t if causal
//
//                      keys s                      The T x S matrix of scores is never formed.  For the queries of one
//             chunk 0  chunk 1  chunk 2            chunk it has two parts:
//            +--------+
//   chunk 0  |  \     |                            intra-chunk (triangle on the diagonal): the keys of the same chunk.
//   queries  | intra\ |        (not visible)       The scores [C, C] are formed, multiplied by the weights, and
//      t     +--------+--------+                   multiplied by the values [C, E].
//   chunk 1  | inter  |  \     |
//            |        | intra\ |                   inter-chunk (all squares to the left): the keys of earlier chunks.
//            +--------+--------+--------+          They are read from the prefix sums, called the carry:
//   chunk 2  |      inter      |  \     |             S [F, E] = sum_s m_s phi(k_s) (x) v_s    feature_sums
//            |   = phi(Q) @ S  | intra\ |             z [F]    = sum_s m_s phi(k_s)            denominator_sums
//            +-----------------+--------+
//
//   one chunk:  1. map the queries and keys      phi(Q), phi(K) [C, F]
//               2. intra-chunk scores            A [C, C] = weights * (phi(Q) @ phi(K)^T), 0 above the diagonal
//               3. averages                      O [C, E] = carry_factors * (phi(Q) @ S) + A @ V
//               4. denominators                  n [C]    = carry_factors * (phi(Q) @ z) + A @ 1;   out = O / n
//               5. accumulate                    S <- final_carry_factor * S + (final_weights * phi(K))^T @ V, z alike
//
// Weights are kept as logarithms.  The log weight of key s at query t is log_weights[s] + log_decay[s+1] + ... +
// log_decay[t], where log_decay is the logarithm of the forget gate.  All weights that one query uses are divided by
// the largest of them, exp(max_log_weights[t]); the sums of the state are divided by exp(state.log_scale).
// carry_factors[t] converts from the scale of the state to the scale of query t, and includes the decay up to t.
//
// Without causal order all keys are accumulated first (step 5), then all queries read the sums (steps 3 and 4 without
// A).
//
// Shape letters: C tokens of a chunk, F features, E value width, D width of queries and keys, R rows of the projection,
// L lanes of a vector, P columns of a panel (tile.h).
#pragma once
#include "state.h"

namespace qkv {
namespace QKV_ISA {

constexpr int64_t BLOCK_ROWS = 64;  // rows of the sums that are read and then added to while they are in the cache

// A range of tokens or of rows.
struct Range {
  int64_t begin, end;
};

// Segment `i` of `segments` segments of the tokens; each has whole chunks.
inline Range split_range(int64_t tokens, int64_t segments, int64_t i) {
  const int64_t chunks = (tokens + C - 1) / C;
  return {std::min(chunks * i / segments * C, tokens), std::min(chunks * (i + 1) / segments * C, tokens)};
}

class ChunkedAttention {
 public:
  explicit ChunkedAttention(const Call& call, bool backward = false)
      : call_(call), s_(call), features(call, backward), transposed_(2 * round_up(s_.padded_width, L) * C),
        queries(s_, transposed_), keys(s_, transposed_ + round_up(s_.padded_width, L) * C),
        values(C * s_.padded_value), row_buffer_(s_.padded_value), scores(C * C), weights(C * C),
        averages_(C * s_.padded_value), visible_values_(s_.padded_value), scaled_values_(PANELS * C * P) {}

  void select_head(int64_t batch, int64_t head) {
    b = batch, h = head;
    const int64_t index = b * call_.heads + h;
    keep_ = call_.keep ? call_.keep + b * call_.keys : nullptr;
    log_weights_ = call_.log_weights ? call_.log_weights + index * call_.keys : nullptr;
    log_decay_ = call_.log_decay ? call_.log_decay + index * call_.keys : nullptr;
  }

  // The state before the first key: zeros, or the initial sums of the call.
  void initialise_state(State& state) const {
    std::memset(state.feature_sums, 0, size_t(s_.phi_rows * s_.padded_value) * 4);
    std::memset(state.denominator_sums, 0, size_t(s_.phi_rows) * 4);
    std::memset(state.value_sums, 0, size_t(s_.padded_value) * 4);
    state.weight_sum = 0, state.squared_weight_sum = 0, state.total_log_decay = 0, state.log_scale = LOG_ZERO;
    if (call_.initial_feature_sums)
      load_state(state, call_.initial_feature_sums, call_.initial_plain_sums, call_.initial_log_scale);
  }

  // Reads feature sums [F, E+1], plain sums [E+2] and log scale [1] of this head into panels.
  void load_state(State& state, const float* sums, const float* plain, const float* log_scale) const {
    const int64_t width = s_.value + 1, index = b * call_.heads + h;
    const float* source = sums + index * s_.feature_count() * width;
    for (int64_t f = 0; f < s_.feature_count(); ++f, source += width) {
      const int64_t row = s_.phi_row(f);
      for (int64_t e = 0; e < s_.value; e += P)
        copy_row(source + e, state.feature_sums + panel_index(row, e, s_.phi_rows), std::min<int64_t>(P, s_.value - e));
      state.denominator_sums[row] = source[s_.value];
    }
    const float* head_plain = plain + index * (width + 1);
    std::memcpy(state.value_sums, head_plain, size_t(s_.value) * 4);
    state.weight_sum = head_plain[s_.value], state.squared_weight_sum = head_plain[width];
    state.log_scale = log_scale ? log_scale[index] : 0;
  }

  // The reverse of load_state.
  void store_state(const State& state, float* sums, float* plain, float* log_scale) const {
    const int64_t width = s_.value + 1, index = b * call_.heads + h;
    float* target = sums + index * s_.feature_count() * width;
    for (int64_t f = 0; f < s_.feature_count(); ++f, target += width) {
      const int64_t row = s_.phi_row(f);
      for (int64_t e = 0; e < s_.value; e += P)
        copy_row(state.feature_sums + panel_index(row, e, s_.phi_rows), target + e, std::min<int64_t>(P, s_.value - e));
      target[s_.value] = state.denominator_sums[row];
    }
    float* head_plain = plain + index * (width + 1);
    std::memcpy(head_plain, state.value_sums, size_t(s_.value) * 4);
    head_plain[s_.value] = state.weight_sum, head_plain[width] = state.squared_weight_sum;
    if (log_scale) log_scale[index] = state.log_scale;
  }

  void read_keys(int64_t first, int64_t tokens) {
    features.map(call_.k, b, h, first, tokens, keep_at(first), keys);
    read_values(first, tokens);
  }

  void read_queries(int64_t first, int64_t tokens) {
    features.map(call_.q, b, h, first, tokens, nullptr, queries);
  }

  void read_queries_and_keys(int64_t first, int64_t tokens) {
    features.map_queries_and_keys(b, h, first, tokens, keep_at(first), queries, keys);
    read_values(first, tokens);
  }

  // key_weights.h
  void compute_final_weights(const State& state);
  void compute_weights(const State& state);
  void copy_final_weights(int64_t tokens);

  // forward.h
  void compute_scores(const State& state, int64_t tokens);
  void process_chunk(State& state, int64_t first, int64_t tokens);
  void attend_to_state(const State& state, int64_t first, int64_t tokens);
  void accumulate_keys(State& state, int64_t tokens);
  void accumulate(State& state, int64_t tokens);

  const Call& call_;
  Sizes s_;
  FeatureMap features;
  Buffer transposed_;
  MappedChunk queries, keys;
  Buffer values;       // [C, E] in panels
  Buffer row_buffer_;  // [E]
  Buffer scores;       // [C keys, C queries]
  Buffer weights;      // [C keys, C queries], relative to the largest of each query
  alignas(64) float is_real[C], log_weights[C], log_decay[C] = {};  // of every key; is_real: 0 for padding
  alignas(64) float denominators[C], weight_sums[C], squared_weight_sums[C];  // of every query
  alignas(64) float max_log_weights[C], carry_factors[C];                     // of every query
  alignas(64) float final_weights[C];  // of every key, after the last token of the chunk
  float final_carry_factor = 1, final_max_log_weight = 0;
  int64_t b = 0, h = 0;

 protected:
  void set_equal_final_weights(const State& state);
  void set_equal_weights(const State& state);
  void read_log_weights(int64_t first, int64_t tokens);
  void read_state_denominators(const State& state);
  void multiply_denominator_sums(const State& state);
  void compute_normalisers();
  template <int N>
  void average_panels(const State& state, int64_t e, Range rows, int64_t tokens, bool adds_intra_chunk);
  void write_averages(const State& state, int64_t first, int64_t tokens, bool adds_intra_chunk);
  void sum_visible_values(const State& state, int64_t t, bool adds_intra_chunk);
  template <int N>
  void scale_values(const float* panels, int64_t tokens);
  template <int N>
  void accumulate_panels(State& state, int64_t e, Range rows, int64_t tokens);
  void accumulate_vectors(State& state, int64_t tokens);

  // `body(panels, column, rows)` for blocks of the sums that fit into the first-level cache beside the features and
  // values that they are multiplied with.
  template <typename F>
  QKV_INLINE void for_each_block(F&& body) const {
    for_each_panel(s_.padded_value, [&](auto panels, int64_t e) {
      for (int64_t f = 0; f < s_.phi_rows; f += BLOCK_ROWS)
        body(panels, e, Range{f, std::min(f + BLOCK_ROWS, s_.phi_rows)});
    });
  }

  const uint8_t* keep_at(int64_t first) const { return keep_ ? keep_ + first : nullptr; }

  void read_values(int64_t first, int64_t tokens) {
    const uint8_t* keep = keep_at(first);
    value_prefetch_.start_at(call_.v, b, h, first + C, s_.value, call_.is_bfloat16);
    for (int64_t s = 0; s < C; ++s) {
      const bool real = s < tokens && (!keep || keep[s]);
      is_real[s] = real;
      copy_value(real ? row_address(call_.v, b, h, first + s, call_.is_bfloat16) : nullptr, s);
    }
    if (call_.has_key_weights) read_log_weights(first, tokens);
  }

  // Copies a value to row s of the panels; zeros if `source` is null.
  QKV_INLINE void copy_value(const char* source, int64_t s) {
    const float* row = row_buffer_;
    if (!source) std::memset(row_buffer_, 0, size_t(s_.padded_value) * 4);
    else if (call_.is_bfloat16 || s_.value < s_.padded_value)
      read_row(source, call_.is_bfloat16, row_buffer_, s_.value);
    else row = reinterpret_cast<const float*>(source);
    for (int64_t e = 0; e < s_.padded_value; e += P)
      for (int j = 0; j < P; j += L) store(values + e * C + s * P + j, load(row + e + j));
  }

  bool has_unit_triangle_ = false;  // `weights` holds those of a chunk of real keys of weight 1 already
  Buffer averages_;        // [C, E]
  Buffer visible_values_;  // [E], the weighted sum of the values that one query sees
  Buffer scaled_values_;   // the values of some panels times the final weights
  alignas(64) float inverse_denominators_[C], fill_factors_[C];
  Prefetcher value_prefetch_, out_prefetch_;  // of the next values, and of the rows that the averages are written to
  const uint8_t* keep_ = nullptr;
  const float *log_weights_ = nullptr, *log_decay_ = nullptr;
};

}  // namespace QKV_ISA
}  // namespace qkv
