// Attention over a cache.
#pragma once

#include "fused.h"

namespace paddle_glm {

// softmax(scale * q k^T + mask) v over the columns of a cache, those of the queries' own tokens included.
struct Attention {
    const float* query;  // [batch, heads, tokens, head_dim]; consecutive heads share a key/value head
    const float* key;
    const float* value;
    const float* mask;  // rows of all columns, added to scores; null: a token sees no later ones
    int64_t mask_batch_stride, mask_row_stride;
    CacheShape cache;
    Past past;
    int64_t heads, tokens;
    float scale;
    Arithmetic arithmetic;
    float* output;  // [batch, tokens, heads * head_dim]

    int64_t group() const { return heads / cache.kv_heads; }
    int64_t columns(int64_t row) const { return past[row] + tokens; }
    const float* mask_row(int64_t row, int64_t token) const {
        return mask + row * mask_batch_stride + token * mask_row_stride;
    }
};

void attend(const Attention& attention);

constexpr int kBlockColumns = kPageColumns;  // of the cache, taken at once
constexpr int kTotalLanes = 16;              // partial sums of a total
constexpr int kTaskRows = 192;               // at most, of a task

// Part of the work: the heads of one key/value head for some tokens and columns. Its rows are the tokens of
// each head in turn. A row's result is sums / the sum of its totals; those of other columns can be added, see
// attention.cc. The pointers are working memory, aligned to 64 bytes.
struct AttentionTask {
    const Attention* attention;
    int64_t row, kv_head, token_begin, tokens, column_begin, column_end;
    int64_t parts;   // of the columns: a task each
    int64_t stride;  // head_dim, rounded up to whole vectors
    float* query;    // [rows, stride]
    float* scratch;  // [kTotalLanes, stride]
    float* keys;     // [stride, kBlockColumns]
    float* values;   // [kBlockColumns, stride]
    float* sums;     // [rows, stride], result: sum of exp(score - largest) * value
    float* totals;   // [rows, kTotalLanes], result: sums of exp(score - largest)
    float* largest;  // [rows], result

    int64_t rows() const { return attention->group() * tokens; }
};

}  // namespace paddle_glm
