#include "attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "scratch.h"

namespace paddle_glm {
namespace {

constexpr int64_t kPartColumns = 4 * kBlockColumns;  // at least, where columns are divided between threads

// How the work is divided: into tokens, and into parts of columns. Parts are there where tokens give too few
// tasks for all threads; in pages all rows are divided alike, so that a row's sums do not depend on its
// neighbours.
struct Division {
    int64_t tokens, token_blocks, part_columns = kPartColumns, stride, rows;
    std::vector<int64_t> first;  // [batch + 1]: tasks of a block of tokens in front of a row's

    explicit Division(const Attention& a) : first(a.cache.batch + 1) {
        tokens = std::clamp<int64_t>(kTaskRows / a.group(), 1, a.tokens);
        token_blocks = (a.tokens + tokens - 1) / tokens;
        stride = (a.cache.head_dim + kTotalLanes - 1) / kTotalLanes * kTotalLanes;
        rows = a.group() * tokens;
        if (a.cache.table == nullptr) {
            const int64_t tasks = a.cache.batch * a.cache.kv_heads * token_blocks, columns = a.columns(0);
            const int64_t parts = std::clamp<int64_t>((4 * num_threads() + tasks - 1) / tasks, 1,
                                                      std::max<int64_t>(columns / kPartColumns, 1));
            const int64_t blocks = (columns + kBlockColumns - 1) / kBlockColumns;
            part_columns = (blocks + parts - 1) / parts * kBlockColumns;
        }
        for (int64_t row = 0; row < a.cache.batch; row++)
            first[row + 1] = first[row] + a.cache.kv_heads * parts(a, row);
    }

    int64_t parts(const Attention& a, int64_t row) const {
        return (a.columns(row) + part_columns - 1) / part_columns;
    }
    int64_t tasks() const { return token_blocks * first.back(); }
    bool divided(const Attention& a) const { return first.back() > a.cache.batch * a.cache.kv_heads; }
    // Of a task's result and of its other working memory, in floats.
    int64_t result_size() const { return round_up(rows * (stride + kTotalLanes + 1)); }
    int64_t work_size() const { return (rows + kTotalLanes + 2 * kBlockColumns) * stride; }

    static int64_t round_up(int64_t size) { return (size + kTotalLanes - 1) / kTotalLanes * kTotalLanes; }
};

AttentionTask make_task(const Attention& a, const Division& division, int64_t index, float* work,
                        float* result) {
    AttentionTask task;
    task.attention = &a;
    const std::vector<int64_t>& first = division.first;
    // The last tokens, which see most columns, first.
    const int64_t block = division.token_blocks - 1 - index / first.back();
    index %= first.back();
    task.row = std::upper_bound(first.begin(), first.end(), index) - first.begin() - 1;
    index -= first[task.row];
    task.parts = division.parts(a, task.row);
    task.kv_head = index / task.parts;
    task.token_begin = block * division.tokens;
    task.tokens = std::min(division.tokens, a.tokens - task.token_begin);
    task.column_begin = index % task.parts * division.part_columns;
    task.column_end = std::min(a.columns(task.row), task.column_begin + division.part_columns);
    task.stride = division.stride;
    task.keys = work;
    task.values = task.keys + kBlockColumns * task.stride;
    task.scratch = task.values + kBlockColumns * task.stride;
    task.query = task.scratch + kTotalLanes * task.stride;
    task.sums = result;
    task.totals = task.sums + division.rows * task.stride;
    task.largest = task.totals + division.rows * kTotalLanes;
    return task;
}

// Adds another task's columns to a task.
void add(const AttentionTask& to, const AttentionTask& other) {
    for (int64_t r = 0; r < to.rows(); r++) {
        const float largest = std::max(to.largest[r], other.largest[r]);
        const float mine = std::exp(to.largest[r] - largest), theirs = std::exp(other.largest[r] - largest);
        float* sums = to.sums + r * to.stride;
        float* totals = to.totals + r * kTotalLanes;
        for (int64_t i = 0; i < to.stride; i++)
            sums[i] = sums[i] * mine + other.sums[r * to.stride + i] * theirs;
        for (int i = 0; i < kTotalLanes; i++)
            totals[i] = totals[i] * mine + other.totals[r * kTotalLanes + i] * theirs;
        to.largest[r] = largest;
    }
}

void write_output(const AttentionTask& task) {
    const Attention& a = *task.attention;
    const int64_t size = a.cache.head_dim;
    for (int64_t r = 0; r < task.rows(); r++) {
        const int64_t head = task.kv_head * a.group() + r / task.tokens;
        const int64_t token = task.token_begin + r % task.tokens;
        float total = 0;
        for (int i = 0; i < kTotalLanes; i++) total += task.totals[r * kTotalLanes + i];
        float* out = a.output + ((task.row * a.tokens + token) * a.heads + head) * size;
        for (int64_t i = 0; i < size; i++) out[i] = task.sums[r * task.stride + i] / total;
    }
}

}  // namespace

void attend(const Attention& a) {
    if (a.cache.batch * a.heads * a.tokens == 0) return;
    const Division division(a);
    const KernelTable& table = kernels();
    const bool rounded = a.arithmetic != Arithmetic::kFloat32 && table.attend_bfloat16 != nullptr;
    const auto kernel = rounded ? table.attend_bfloat16 : table.attend;
    const int64_t tasks = division.tasks(), size = division.result_size();
    float* results = nullptr;  // of all tasks, where several have parts of one row
    if (division.divided(a))
        results = reinterpret_cast<float*>(scratch(Scratch::kActivations, tasks * size * sizeof(float)));
    const auto result = [&](int64_t i, float* own) { return results == nullptr ? own : results + i * size; };
    parallel_for(tasks, 1, [&](int64_t begin, int64_t end) {
        const int64_t bytes = (division.work_size() + size) * sizeof(float);
        float* work = reinterpret_cast<float*>(scratch(Scratch::kTile, bytes));
        for (int64_t i = begin; i < end; i++) {
            const AttentionTask task =
                make_task(a, division, i, work, result(i, work + division.work_size()));
            kernel(task);
            if (results == nullptr) write_output(task);
        }
    });
    if (results == nullptr) return;
    parallel_for(tasks, 64, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const AttentionTask whole = make_task(a, division, i, nullptr, result(i, nullptr));
            if (whole.column_begin > 0) continue;  // belongs to the task before
            for (int64_t part = 1; part < whole.parts; part++)
                add(whole, make_task(a, division, i + part, nullptr, result(i + part, nullptr)));
            write_output(whole);
        }
    });
}

}  // namespace paddle_glm
