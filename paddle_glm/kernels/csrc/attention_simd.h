// Attention with vectors of N floats: blocks of columns with an online softmax (arXiv:2205.14135).
//
// A product accumulates a[row][step] * panel[step][column]. Its elements are 32 bits: a float, or two
// bfloat16 of which both products are added. The parameter P gives elements and instructions:
// `Float32Product`.
#pragma once

#include "attention.h"
#include "simd.h"

namespace paddle_glm {
namespace {

constexpr int kTileRows = 6;  // of a product: with 4 vectors of columns they fill 32 registers
// Scores below are those of masked columns (-1e9), above those of visible ones.
constexpr float kMasked = -1e8f;
constexpr float kLowest = -3e38f;  // the largest score of no columns: finite, so that differences are

struct Panel {
    const float* data;
    int64_t stride;
};

template <int N>
struct Float32Product {
    using V = Simd<N>;
    using Float = typename V::Float;
    static constexpr int kTileVectors = N == 16 ? 4 : 2;
    static constexpr int kChannels = 1;  // numbers per element

    static Float multiply_add(float a, Float b, Float sum) { return a * b + sum; }

    // Numbers -> elements.
    static void convert(const float* from, int64_t size, float* to) {
        for (int64_t i = 0; i < size; i++) to[i] = from[i];
    }

    // Rows of `size` numbers of the cache -> a panel with a step for each; it may be the rows themselves.
    static Panel row_panel(const float* from, int64_t rows, int64_t size, int64_t stride, float* to) {
        if (size % N == 0) return {from, size};
        for (int64_t i = 0; i < rows; i++) convert(from + i * size, size, to + i * stride);
        return {to, stride};
    }
};

template <class P>
int64_t steps(int64_t numbers) {
    return (numbers + P::kChannels - 1) / P::kChannels;
}

// out[R][C vectors] = scale[row] * out + a panel; without scale, out = a panel.
template <class P, int R, int C>
void product(const float* a, int64_t a_stride, Panel panel, int64_t steps, const float* scale, float* out,
             int64_t out_stride) {
    using V = typename P::V;
    constexpr int N = V::kLanes;
    typename V::Float sums[R][C];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++)
            sums[r][c] =
                scale == nullptr ? typename V::Float{} : V::load(out + r * out_stride + c * N) * scale[r];
    for (int64_t k = 0; k < steps; k++) {
        typename V::Float b[C];
        for (int c = 0; c < C; c++) b[c] = V::load(panel.data + k * panel.stride + c * N);
        for (int r = 0; r < R; r++) {
            const float s = a[r * a_stride + k];
            for (int c = 0; c < C; c++) sums[r][c] = P::multiply_add(s, b[c], sums[r][c]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) V::store(out + r * out_stride + c * N, sums[r][c]);
}

// `product` for any number of columns, a multiple of vectors.
template <class P, int R>
void wide_product(const float* a, int64_t a_stride, Panel panel, int64_t steps, const float* scale,
                  float* out, int64_t out_stride, int64_t columns) {
    constexpr int N = P::V::kLanes, C = P::kTileVectors;
    int64_t c = 0;
    for (; c + C * N <= columns; c += C * N)
        product<P, R, C>(a, a_stride, {panel.data + c, panel.stride}, steps, scale, out + c, out_stride);
    for (; c < columns; c += N)
        product<P, R, 1>(a, a_stride, {panel.data + c, panel.stride}, steps, scale, out + c, out_stride);
}

// Scores of one row -> their exponentials, as elements: `weights`; updates the row's largest score and sum of
// exponentials. Returns what earlier sums must be multiplied with.
template <class P>
float soften(float* scores, int64_t columns, const float* mask, float* maximum, float* total,
             float* weights) {
    using V = typename P::V;
    constexpr int N = V::kLanes;
    const float lowest = -__builtin_inff();
    if (mask != nullptr)
        for (int64_t i = 0; i < columns; i++) scores[i] += mask[i];
    for (int64_t i = columns; i < kBlockColumns; i++) scores[i] = lowest;
    typename V::Float most = V::load(scores);
    for (int i = N; i < kBlockColumns; i += N) most = V::larger(most, V::load(scores + i));
    const float block_largest = largest<N>(most);
    const float now = block_largest > *maximum ? block_largest : *maximum;
    typename V::Float sum{};
    for (int i = 0; i < kBlockColumns; i += N) {
        const typename V::Float e = V::exp(V::load(scores + i) - now);
        V::store(scores + i, e);
        sum += e;
    }
    const float factor = V::exp(typename V::Float{} + (*maximum - now))[0];
    V::store(total, V::load(total) * factor + sum);
    *maximum = now;
    P::convert(scores, kBlockColumns, weights);
    return factor;
}

// What one row sees of the columns of a tile: the first ones, with a mask, or null, added to their scores.
struct Seen {
    int64_t columns;
    const float* mask;
};

// Adds `columns` columns to rows row.. of a task.
template <class P, int R>
void attend_tile(const AttentionTask& task, Panel keys, Panel values, int64_t columns, int64_t row,
                 const Seen* seen) {
    constexpr int N = P::V::kLanes, kWeights = kBlockColumns / P::kChannels;
    const int64_t size = task.attention->cache.head_dim;
    alignas(64) float scores[R * kBlockColumns], weights[R * kWeights];
    float factors[R];
    wide_product<P, R>(task.query + row * task.stride, task.stride, keys, steps<P>(size), nullptr, scores,
                       kBlockColumns, (columns + N - 1) / N * N);
    for (int r = 0; r < R; r++)
        factors[r] =
            soften<P>(scores + r * kBlockColumns, seen[r].columns, seen[r].mask, task.largest + row + r,
                      task.totals + (row + r) * kTotalLanes, weights + r * kWeights);
    wide_product<P, R>(weights, kWeights, values, steps<P>(columns), factors, task.sums + row * task.stride,
                       task.stride, (size + N - 1) / N * N);
}

template <class P>
void attend_tile(const AttentionTask& task, Panel keys, Panel values, int64_t columns, int64_t row,
                 int64_t count, const Seen* seen) {
    switch (count) {
        case 1:
            return attend_tile<P, 1>(task, keys, values, columns, row, seen);
        case 2:
            return attend_tile<P, 2>(task, keys, values, columns, row, seen);
        case 3:
            return attend_tile<P, 3>(task, keys, values, columns, row, seen);
        case 4:
            return attend_tile<P, 4>(task, keys, values, columns, row, seen);
        case 5:
            return attend_tile<P, 5>(task, keys, values, columns, row, seen);
        default:
            return attend_tile<P, kTileRows>(task, keys, values, columns, row, seen);
    }
}

// What a mask does to a block for one token: columns from `used` on are hidden; mixed: those
// before are not all visible.
struct MaskState {
    int64_t used;
    bool mixed;
};

template <int N>
MaskState mask_state(const float* mask, int64_t columns) {
    MaskState state{columns, false};
    while (state.used > 0 && mask[state.used - 1] < kMasked) state.used--;
    const int64_t whole = state.used - state.used % N;
    typename Simd<N>::Int differs{};
    for (int64_t i = 0; i < whole; i += N) differs |= Simd<N>::load(mask + i) != 0.0f;
    for (int i = 0; i < N; i++) state.mixed |= differs[i] != 0;
    for (int64_t i = whole; i < state.used; i++) state.mixed |= mask[i] != 0;
    return state;
}

// Without a mask: a token sees the columns up to its own.
inline MaskState causal_state(int64_t own, int64_t first, int64_t columns) {
    const int64_t seen = own + 1 - first;
    return {seen < 0 ? 0 : seen < columns ? seen : columns, false};
}

inline bool sees_something(const float* mask, int64_t columns) {
    for (int64_t i = columns; i-- > 0;)
        if (!(mask[i] < kMasked)) return true;
    return false;
}

// Scaled queries as elements, and no columns yet.
template <class P>
void begin(const AttentionTask& task) {
    const Attention& a = *task.attention;
    const int64_t size = a.cache.head_dim, rows = task.rows();
    for (int64_t r = 0; r < rows; r++) {
        const int64_t head = task.kv_head * a.group() + r / task.tokens;
        const int64_t token = task.token_begin + r % task.tokens;
        const float* query = a.query + ((task.row * a.heads + head) * a.tokens + token) * size;
        float* sums = task.sums + r * task.stride;  // the place for scaled numbers, too
        for (int64_t i = 0; i < size; i++) sums[i] = query[i] * a.scale;
        P::convert(sums, size, task.query + r * task.stride);
        for (int64_t i = 0; i < task.stride; i++) sums[i] = 0;
        for (int i = 0; i < kTotalLanes; i++) task.totals[r * kTotalLanes + i] = 0;
        task.largest[r] = kLowest;
    }
}

// [columns, size] of the cache -> [steps, kBlockColumns] with zeros behind `columns`.
template <class P>
Panel key_panel(const AttentionTask& task, const float* keys, int64_t columns) {
    constexpr int N = P::V::kLanes;
    const int64_t size = task.attention->cache.head_dim, count = steps<P>(size);
    for (int64_t first = 0; first < kBlockColumns; first += N) {
        const float* rows = keys + first * size;
        int64_t stride = size;
        if (P::kChannels > 1 || size % N != 0 || first + N > columns) {
            rows = task.scratch;
            stride = task.stride;
            for (int64_t i = 0; i < N; i++)
                if (first + i < columns)
                    P::convert(keys + (first + i) * size, size, task.scratch + i * stride);
                else
                    for (int64_t k = 0; k < count; k++) task.scratch[i * stride + k] = 0;
        }
        for (int64_t k = 0; k < count; k += N)
            transpose<N>(rows + k, stride, task.keys + k * kBlockColumns + first, kBlockColumns);
    }
    return {task.keys, kBlockColumns};
}

// The share of one of `tiles` tiles in fetching the next block of keys or values, which no hardware does in
// time: a block is read at once, and then nothing while its products are computed.
inline void fetch_ahead(const float* block, int64_t size, int64_t tile, int64_t tiles) {
    const int64_t share = (kBlockColumns * size + tiles - 1) / tiles;
    const float* from = block + tile * share;
    for (int64_t i = 0; i < share; i += 16) __builtin_prefetch(from + i, 0, 2);
}

template <class P>
void attend_columns(const AttentionTask& task, int64_t first, int64_t columns, const MaskState* states) {
    const Attention& a = *task.attention;
    const int64_t at = a.cache.column(task.row, task.kv_head, first), size = a.cache.head_dim;
    const int64_t rows = task.rows(), tiles = (rows + kTileRows - 1) / kTileRows;
    const bool more = first + 2 * kBlockColumns <= task.column_end;
    const int64_t next = more ? a.cache.column(task.row, task.kv_head, first + kBlockColumns) : 0;
    const Panel keys = key_panel<P>(task, a.key + at, columns);
    const Panel values = P::row_panel(a.value + at, columns, size, task.stride, task.values);
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t row = tile * kTileRows, count = rows - row < kTileRows ? rows - row : kTileRows;
        if (more) {
            fetch_ahead(a.key + next, size, tile, tiles);
            fetch_ahead(a.value + next, size, tile, tiles);
        }
        int64_t used = 0;
        for (int64_t r = 0; r < count; r++) {
            const MaskState& state = states[(row + r) % task.tokens];
            used = used > state.used ? used : state.used;
        }
        if (used == 0) continue;
        Seen seen[kTileRows];
        for (int64_t r = 0; r < count; r++) {
            const int64_t token = (row + r) % task.tokens;
            const bool masked = states[token].mixed || states[token].used < used;
            if (a.mask == nullptr)
                seen[r] = {states[token].used, nullptr};
            else
                seen[r] = {used, masked ? a.mask_row(task.row, task.token_begin + token) + first : nullptr};
        }
        attend_tile<P>(task, keys, values, used, row, count, seen);
    }
}

template <class P>
void attend(const AttentionTask& task) {
    const Attention& a = *task.attention;
    bool sees[kTaskRows];
    MaskState states[kTaskRows];
    begin<P>(task);
    if (a.mask != nullptr)
        for (int64_t token = 0; token < task.tokens; token++)
            sees[token] = sees_something(a.mask_row(task.row, task.token_begin + token), a.columns(task.row));
    for (int64_t first = task.column_begin; first < task.column_end; first += kBlockColumns) {
        const int64_t left = task.column_end - first, columns = left < kBlockColumns ? left : kBlockColumns;
        int64_t used = 0;
        for (int64_t token = 0; token < task.tokens; token++) {
            const int64_t index = task.token_begin + token;
            if (a.mask == nullptr)
                states[token] = causal_state(a.past[task.row] + index, first, columns);
            else if (sees[token])
                states[token] = mask_state<P::V::kLanes>(a.mask_row(task.row, index) + first, columns);
            else  // a row that sees nothing gets the mean of all columns
                states[token] = {columns, true};
            used = used > states[token].used ? used : states[token].used;
        }
        if (used > 0) attend_columns<P>(task, first, used, states);
    }
}

}  // namespace
}  // namespace paddle_glm
