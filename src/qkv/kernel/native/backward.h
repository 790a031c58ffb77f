// The backward pass over the queries of one head.  Features and weights are computed again chunk by chunk (chunks.h),
// so nothing of size T x F is stored.  With U_t [E+1] the gradient of query t's numerator and denominator, [v_s, 1] in
// place of v_s throughout, and m_ts the weight of key s at query t:
//
//   d phi(q_t) = sum_s m_ts (U_t . v_s) phi(k_s)           forwards over the chunks, with the forward pass' sums
//   d phi(k_s) = sum_t m_ts (U_t . v_s) phi(q_t)           backwards over the chunks, with sums of m phi(q) (x) U
//   d v_s      = sum_t m_ts (phi(q_t) . phi(k_s) U_t + P_t)
//   d log m_s  = v_s . d v_s + 2 sum_t m_ts^2 Q_t
//
//          chunk 0     chunk 1     chunk 2
//   state  S_0 ------> S_1 ------> S_2 ------> S_3     prefix sums of the keys: the gradients of the queries read them
//   grad   G_0 <------ G_1 <------ G_2 <------ G_3     suffix sums of the queries: the gradients of the keys read them
//
// d log g_l = (all gradient that reaches the final state) - sum_{s >= l} d log m_s, because a query's average does not
// change when all its weights are multiplied by one factor.  P_t and Q_t are the gradients of the weighted value sum
// that fills a deficit, and of the squared weight sum that the size of the deficit depends on.
#pragma once
#include "forward.h"

namespace qkv {
namespace QKV_ISA {

// What the backward pass of the keys needs of every query.
struct QueryGradients {
  explicit QueryGradients(int64_t queries)
      : inverse_denominators(queries), denominators(queries), weight_sums(queries), squared_weight_sums(queries),
        fill_factors(queries) {}
  Buffer inverse_denominators;  // U_t = inverse_denominator * gradient of out
  Buffer denominators;          // the last component of U_t
  Buffer weight_sums;           // the last component of P_t
  Buffer squared_weight_sums;   // Q_t
  Buffer fill_factors;          // the other components of P_t are fill_factor * U_t
};

class Backward : ChunkedAttention {
 public:
  explicit Backward(const Call& call)
      : ChunkedAttention(call, true), state(s_), grad_state(s_), u_(C * s_.padded_value),
        u_transposed_(s_.padded_value * C), v_transposed_(s_.padded_value * C), grad_scores_(C * C), scores_(C * C),
        grad_phi_(s_.phi_rows * C), grad_v_(C * s_.padded_value), out_buffer_(s_.padded_value) {}

  void select_head(int64_t batch, int64_t head, QueryGradients& query_gradients) {
    ChunkedAttention::select_head(batch, head);
    features.load_projection(head, true);
    query_gradients_ = &query_gradients;
  }

  // `state` becomes what the queries of the first chunk see before it: all keys if not causal.
  void initialise_state_for_queries() {
    if (call_.causal) initialise_state(state);
    else load_state(state, call_.final_feature_sums, call_.final_plain_sums, call_.final_log_scale);
  }

  void clear_grad_state() {
    std::memset(grad_state.feature_sums, 0, size_t(s_.phi_rows * s_.padded_value) * 4);
    std::memset(grad_state.denominator_sums, 0, size_t(s_.phi_rows) * 4);
    std::memset(grad_state.value_sums, 0, size_t(s_.padded_value) * 4);
    grad_state.weight_sum = 0, grad_state.squared_weight_sum = 0;
  }
  void initialise_grad_state();

  // Computes the gradients of these queries.  `accumulates`: their gradient of the sums before the segment is added to
  // grad_state.
  void process_queries(Range range, bool accumulates) {
    float carry_log = state.log_scale;
    for (int64_t first = range.begin; first < range.end; first += C) {
      const int64_t tokens = std::min<int64_t>(C, range.end - first);
      if (call_.causal) process_causal_queries(first, tokens);
      else process_queries_of_all_keys(first, tokens);
      if (accumulates) accumulate_initial_gradient(tokens, carry_log);
      features.backpropagate(queries, grad_phi_, nullptr, call_.grad_q, b, h, first, tokens);
    }
  }

  // Computes the gradients of these keys, last chunk first; grad_state becomes the gradient of the sums before them.
  // grad_log_weight_sum: the sum of the gradients of the log weights of these keys and of the keys after them.
  void process_keys(Range range, double& grad_log_weight_sum) {
    if (range.end <= range.begin) return;
    for (int64_t first = range.begin + (range.end - range.begin - 1) / C * C; first >= range.begin; first -= C)
      process_key_chunk(first, std::min<int64_t>(C, range.end - first), grad_log_weight_sum);
  }

  // The sum of the decays of the keys from `first` on.
  double sum_log_decay_from(int64_t first) const {
    double sum = 0;
    for (int64_t s = first; log_decay_ && s < call_.keys; ++s) sum += log_decay_[s];
    return sum;
  }

  // Not causal: the sum of the decays of the keys that follow those processed next.
  void set_later_log_decay(double log_decay) { later_log_decay_ = log_decay; }
  void store_grad_initial_state();
  // Adds the gradient of the projection, where the map has one and its gradient is needed.
  void add_grad_projection(float* grad) const {
    if (call_.grad_projection) features.add_grad_projection(grad);
  }

  State state, grad_state;

 private:
  void transpose_panels(const float* x, float* transposed) const {
    for (int64_t e = 0; e < s_.padded_value; e += P) transpose_tokens(x + e * C, P, P, transposed + e * C);
  }

  void accumulate_initial_gradient(int64_t tokens, float& carry_log);
  void load_query_gradients(int64_t first, int64_t tokens);
  void compute_query_gradients(const State& state, int64_t first, int64_t tokens, bool adds_intra_chunk);
  void process_causal_queries(int64_t first, int64_t tokens);
  void process_queries_of_all_keys(int64_t first, int64_t tokens);
  void process_key_chunk(int64_t first, int64_t tokens, double& grad_log_weight_sum);
  void compute_grad_phi_of_queries(int64_t tokens, bool adds_intra_chunk);
  void compute_grad_scores_by_key(int64_t tokens);
  void compute_grad_scores_by_query(int64_t tokens);
  void recompute_weights(int64_t first, int64_t tokens);
  void recompute_final_weights();
  void compute_grad_phi_of_keys(int64_t tokens);
  void compute_grad_values(int64_t tokens);
  void compute_grad_log_weights(int64_t first, int64_t tokens, double& grad_log_weight_sum);
  void accumulate_grad_state(int64_t tokens);

  int64_t query_index(int64_t t) const { return (b * call_.heads + h) * call_.queries + t; }

  QueryGradients* query_gradients_ = nullptr;
  Buffer u_, u_transposed_;         // U [C, E] in panels, and [E, C]
  Buffer v_transposed_;             // the values [E, C]
  Buffer grad_scores_;              // m_ts U_t . v_s, [C keys, C queries] or the reverse
  Buffer scores_;                   // m_ts (phi(q_t) . phi(k_s) + fill_t) [C queries, C keys]
  Buffer grad_phi_;                 // [F, C]
  Buffer grad_v_, out_buffer_;      // [C, E], [E]
  // The members of QueryGradients for the queries of this chunk; and of the keys, the gradient of their log weights.
  alignas(64) float grad_denominators_[C], grad_weight_sums_[C], grad_squared_weight_sums_[C], query_fill_factors_[C],
      grad_log_weights_[C];
  float grad_total_log_weight_ = 0;  // the sums of the final state times their gradient: all that reaches it
  double later_log_decay_ = 0;           // not causal: the sum of the decays of the keys after this chunk
};

// Sets grad_state to the gradient of the final state.
inline void Backward::initialise_grad_state() {
  clear_grad_state();
  grad_total_log_weight_ = 0, later_log_decay_ = 0;
  const int64_t width = s_.value + 1, index = b * call_.heads + h;
  double total = 0;
  if (call_.grad_final_feature_sums) {
    const int64_t size = s_.feature_count() * width;
    for (int64_t f = 0; f < s_.feature_count(); ++f) {
      const float* source = call_.grad_final_feature_sums + index * size + f * width;
      for (int64_t e = 0; e < s_.value; ++e)
        grad_state.feature_sums[panel_index(s_.phi_row(f), e, s_.phi_rows)] = source[e];
      grad_state.denominator_sums[s_.phi_row(f)] = source[s_.value];
    }
    for (int64_t i = 0; i < size; ++i)
      total += double(call_.grad_final_feature_sums[index * size + i]) * call_.final_feature_sums[index * size + i];
  }
  if (call_.grad_final_plain_sums) {
    const float* source = call_.grad_final_plain_sums + index * (width + 1);
    const float* final_plain_sums = call_.final_plain_sums + index * (width + 1);
    std::memcpy(grad_state.value_sums, source, size_t(s_.value) * 4);
    grad_state.weight_sum = source[s_.value], grad_state.squared_weight_sum = source[width];
    for (int64_t e = 0; e < width; ++e) total += double(source[e]) * final_plain_sums[e];
    total += 2.0 * source[width] * final_plain_sums[width];
  }
  grad_total_log_weight_ = float(total);
  grad_state.log_scale = call_.has_key_weights ? call_.final_log_scale[index] : 0;
}

// The rows U_t of this chunk, and their transpose.
inline void Backward::load_query_gradients(int64_t first, int64_t tokens) {
  for (int64_t t = 0; t < C; ++t) {
    if (t < tokens)
      read_row(row_address(call_.grad_out, b, h, first + t, call_.is_bfloat16), call_.is_bfloat16, out_buffer_,
               s_.value);
    else
      std::memset(out_buffer_, 0, size_t(s_.padded_value) * 4);
    const float factor = t < tokens ? query_gradients_->inverse_denominators[first + t] : 0;
    for (int64_t e = 0; e < s_.padded_value; e += L) store(u_ + panel_index(t, e, C), load(out_buffer_ + e) * factor);
    grad_denominators_[t] = t < tokens ? query_gradients_->denominators[first + t] : 0;
    grad_weight_sums_[t] = t < tokens ? query_gradients_->weight_sums[first + t] : 0;
    grad_squared_weight_sums_[t] = t < tokens ? query_gradients_->squared_weight_sums[first + t] : 0;
    query_fill_factors_[t] = t < tokens ? query_gradients_->fill_factors[first + t] : 0;
  }
  transpose_panels(u_, u_transposed_);
}

// Fills query_gradients_ from the gradient and the average of every query.
inline void Backward::compute_query_gradients(const State& state, int64_t first, int64_t tokens,
                                              bool adds_intra_chunk) {
  for (int64_t t = 0; t < tokens; ++t) {
    const float denominator = call_.denominators[query_index(first + t)];
    const float weight_sum = call_.weight_sums[query_index(first + t)];
    const float squared_weight_sum = call_.squared_weight_sums[query_index(first + t)];
    const float deficit = compute_deficit(call_.floor, squared_weight_sum, denominator);
    const float inverse = weight_sum > 0 ? 1 / (denominator + deficit) : 0;
    const char* grad_out = row_address(call_.grad_out, b, h, first + t, call_.is_bfloat16);
    read_row(grad_out, call_.is_bfloat16, out_buffer_, s_.value);
    read_row(row_address(call_.out, b, h, first + t, call_.is_bfloat16), call_.is_bfloat16, row_buffer_, s_.value);
    float grad_dot_out = 0, grad_dot_mean = 0;
    for (int64_t e = 0; e < s_.value; ++e) grad_dot_out += out_buffer_[e] * row_buffer_[e];
    grad_dot_out *= inverse;
    if (deficit > 0) {
      sum_visible_values(state, t, adds_intra_chunk);
      for (int64_t e = 0; e < s_.value; ++e) grad_dot_mean += out_buffer_[e] * visible_values_[e];
      grad_dot_mean *= inverse / weight_sum;
    }
    const bool has_deficit = deficit > 0 && weight_sum > 0;
    query_gradients_->inverse_denominators[first + t] = inverse;
    query_gradients_->denominators[first + t] = has_deficit ? -grad_dot_mean : -grad_dot_out;
    query_gradients_->weight_sums[first + t] = has_deficit ? -deficit * grad_dot_mean / weight_sum : 0;
    query_gradients_->squared_weight_sums[first + t] =
        has_deficit && squared_weight_sum > 0
            ? call_.floor * (grad_dot_mean - grad_dot_out) / (2 * std::sqrt(squared_weight_sum)) : 0;
    query_gradients_->fill_factors[first + t] = has_deficit ? deficit / weight_sum : 0;
  }
}

// Queries that see the keys up to their own; the state moves on to the next chunk.
inline void Backward::process_causal_queries(int64_t first, int64_t tokens) {
  read_queries_and_keys(first, tokens);
  compute_weights(state);
  copy_final_weights(tokens);
  compute_query_gradients(state, first, tokens, true);
  load_query_gradients(first, tokens);
  compute_grad_scores_by_key(tokens);
  compute_grad_phi_of_queries(tokens, true);
  accumulate(state, tokens);
}

// Queries that see all keys.
inline void Backward::process_queries_of_all_keys(int64_t first, int64_t tokens) {
  read_queries(first, tokens);
  compute_query_gradients(state, first, tokens, false);
  load_query_gradients(first, tokens);
  compute_grad_phi_of_queries(tokens, false);
}

// Adds the gradient that this chunk's queries give to the sums before the segment.  carry_log: the logarithm of the
// factor of those sums before this chunk; becomes the same after it.
inline void Backward::accumulate_initial_gradient(int64_t tokens, float& carry_log) {
  for (int t = 0; t < C; ++t) {
    if (call_.causal && call_.has_key_weights)
      carry_log += log_decay[t], carry_factors[t] = relative_weight(carry_log, max_log_weights[t]);
    else carry_factors[t] = 1;
  }
  final_carry_factor = 1;
  accumulate_grad_state(tokens);
}

// grad_scores_[s, t] = m_ts U_t . v_s
inline void Backward::compute_grad_scores_by_key(int64_t tokens) {
  for (int t = 0; t < C; t += P)
    for (int s = 0; s < std::min<int>(t + P, int(tokens)); s += TILE_ROWS) {
      Tile tile;
      tile.read(grad_denominators_ + t, 0);
      // values [C keys, E] @ U^T [E, C queries].
      for (int64_t e = 0; e < s_.padded_value; e += P)
        tile.template add_product<P, 1>(values + e * C + s * P, u_transposed_ + e * C + t, C, P);
      for (int i = 0; i < TILE_ROWS; ++i)
        for (int j = 0; j < PANEL_VECTORS; ++j)
          store(grad_scores_ + (s + i) * C + t + j * L,
                s + i < t + (j + 1) * L ? tile.value[i][j] * load(weights + (s + i) * C + t + j * L) : Floats{});
    }
}

inline void Backward::compute_grad_phi_of_queries(int64_t tokens, bool adds_intra_chunk) {
  for (int64_t f = 0; f < s_.phi_rows; f += TILE_ROWS)
    for (int t = 0; t < C; t += P) {
      Tile tile;
      for (int i = 0; i < TILE_ROWS; ++i)
        for (int j = 0; j < PANEL_VECTORS; ++j)
          tile.value[i][j] = load(grad_denominators_ + t + j * L) * state.denominator_sums[f + i];
      // Inter-chunk: sums [F, E] @ U^T [E, C queries].
      for (int64_t e = 0; e < s_.padded_value; e += P)
        tile.template add_product<P, 1>(state.feature_sums + e * s_.phi_rows + f * P, u_transposed_ + e * C + t, C, P);
      if (adds_intra_chunk) {
        if (call_.has_key_weights) tile.scale_columns(carry_factors + t);
        // Intra-chunk: phi(K)^T [F, C keys] @ grad_scores_ [C keys, C queries].
        tile.template add_product<C, 1>(keys.phi + f * C, grad_scores_ + t, C, std::min<int64_t>(t + P, tokens));
      }
      tile.write(grad_phi_ + f * C + t, C);
    }
}

}  // namespace QKV_ISA
}  // namespace qkv
