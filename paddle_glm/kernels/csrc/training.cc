#include "training.h"

#include <algorithm>
#include <vector>

#include "isa.h"
#include "parallel.h"

namespace paddle_glm {
namespace {

// Elements per range of work: enough to outweigh handing it out.
constexpr int64_t kGrain = 16384;
// Rows whose parts of a norm's weight gradient are added up before those of the next rows.
constexpr int64_t kRowRange = 64;

int64_t rows_per_range(int64_t size) { return std::max<int64_t>(1, kGrain / size); }

}  // namespace

const TrainingKernels& training_kernels() {
#if defined(__x86_64__)
    if (isa() >= Isa::kAvx512) return kTrainingAvx512;
    if (isa() >= Isa::kAvx2) return kTrainingAvx2;
#endif
    return kTrainingPortable;
}

void rms_norm_training(const float* x, const float* weight, int64_t rows, int64_t size, float epsilon,
                       float* y, float* factor) {
    const TrainingKernels& kernels = training_kernels();
    parallel_for(rows, rows_per_range(size), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++)
            factor[row] = kernels.rms_norm(x + row * size, weight, size, epsilon, y + row * size);
    });
}

void rms_norm_training_grad(const float* x, const float* weight, const float* factor, const float* dy,
                            int64_t rows, int64_t size, float* dx, float* dweight) {
    const TrainingKernels& kernels = training_kernels();
    const int64_t ranges = (rows + kRowRange - 1) / kRowRange;
    std::vector<float> parts(ranges * size, 0.0f);
    parallel_for(ranges, 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin * kRowRange; row < std::min(end * kRowRange, rows); row++) {
            const int64_t offset = row * size;
            kernels.rms_norm_grad(x + offset, weight, factor[row], dy + offset, size, dx + offset,
                                  parts.data() + row / kRowRange * size);
        }
    });
    std::fill(dweight, dweight + size, 0.0f);
    for (int64_t range = 0; range < ranges; range++) {
        for (int64_t i = 0; i < size; i++) dweight[i] += parts[range * size + i];
    }
}

void swiglu_training(const float* x, int64_t rows, int64_t size, float* y) {
    const TrainingKernels& kernels = training_kernels();
    parallel_for(rows, rows_per_range(size), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const float* gate = x + 2 * row * size;
            kernels.swiglu(gate, gate + size, size, y + row * size);
        }
    });
}

void swiglu_training_grad(const float* x, const float* dy, int64_t rows, int64_t size, float* dx) {
    const TrainingKernels& kernels = training_kernels();
    parallel_for(rows, rows_per_range(size), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const float* gate = x + 2 * row * size;
            float* dgate = dx + 2 * row * size;
            kernels.swiglu_grad(gate, gate + size, dy + row * size, size, dgate, dgate + size);
        }
    });
}

void split_rotary(const Projection& sizes, const float* qkv, const float* cos, const float* sin, float* query,
                  float* key, float* value) {
    const TrainingKernels& kernels = training_kernels();
    const int64_t dim = sizes.head_dim, tokens = sizes.tokens, groups = sizes.kv_heads;
    parallel_for(sizes.batch * tokens, rows_per_range(sizes.width()), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const int64_t batch = row / tokens, token = row % tokens;
            const float* in = qkv + row * sizes.width();
            const float *c = cos + row * sizes.half, *s = sin + row * sizes.half;
            for (int64_t head = 0; head < sizes.heads; head++, in += dim) {
                float* out = query + ((batch * sizes.heads + head) * tokens + token) * dim;
                kernels.rotate(in, c, s, sizes.half, dim, sizes.scale, out);
            }
            for (int64_t head = 0; head < groups; head++, in += dim) {
                float* out = key + ((batch * groups + head) * tokens + token) * dim;
                kernels.rotate(in, c, s, sizes.half, dim, 1.0f, out);
            }
            for (int64_t head = 0; head < groups; head++, in += dim)
                std::copy(in, in + dim, value + ((batch * groups + head) * tokens + token) * dim);
        }
    });
}

void split_rotary_grad(const Projection& sizes, const float* dquery, const float* dkey, const float* dvalue,
                       const float* cos, const float* sin, float* dqkv) {
    const TrainingKernels& kernels = training_kernels();
    const int64_t dim = sizes.head_dim, tokens = sizes.tokens, groups = sizes.kv_heads;
    parallel_for(sizes.batch * tokens, rows_per_range(sizes.width()), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const int64_t batch = row / tokens, token = row % tokens;
            float* out = dqkv + row * sizes.width();
            const float *c = cos + row * sizes.half, *s = sin + row * sizes.half;
            for (int64_t head = 0; head < sizes.heads; head++, out += dim) {
                const float* in = dquery + ((batch * sizes.heads + head) * tokens + token) * dim;
                kernels.rotate_back(in, c, s, sizes.half, dim, sizes.scale, out);
            }
            for (int64_t head = 0; head < groups; head++, out += dim) {
                const float* in = dkey + ((batch * groups + head) * tokens + token) * dim;
                kernels.rotate_back(in, c, s, sizes.half, dim, 1.0f, out);
            }
            for (int64_t head = 0; head < groups; head++, out += dim) {
                const float* in = dvalue + ((batch * groups + head) * tokens + token) * dim;
                std::copy(in, in + dim, out);
            }
        }
    });
}

void masked_softmax(const float* scores, const float* mask, int64_t batch, int64_t heads, int64_t tokens,
                    int64_t total, bool mask_per_row, float* y) {
    const TrainingKernels& kernels = training_kernels();
    parallel_for(batch * heads * tokens, rows_per_range(total), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const int64_t masked = (mask_per_row ? row / (heads * tokens) * tokens : 0) + row % tokens;
            kernels.softmax(scores + row * total, mask + masked * total, total, y + row * total);
        }
    });
}

void masked_softmax_grad(const float* y, const float* dy, int64_t rows, int64_t size, float* dx) {
    const TrainingKernels& kernels = training_kernels();
    parallel_for(rows, rows_per_range(size), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++)
            kernels.softmax_grad(y + row * size, dy + row * size, size, dx + row * size);
    });
}

void softmax_statistics(const float* logits, const int64_t* labels, int64_t rows, int64_t size, int64_t first,
                        float* maximum, float* sum, float* target) {
    const TrainingKernels& kernels = training_kernels();
    parallel_for(rows, rows_per_range(size), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const float* in = logits + row * size;
            sum[row] = kernels.sum_of_exponentials(in, size, maximum + row);
            const int64_t label = labels[row] - first;
            target[row] = label >= 0 && label < size ? in[label] : 0.0f;
        }
    });
}

void cross_entropy_grad(const float* logits, const int64_t* labels, const float* logsumexp,
                        const float* scale, int64_t rows, int64_t size, int64_t first, float* dlogits) {
    const TrainingKernels& kernels = training_kernels();
    parallel_for(rows, rows_per_range(size), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            float* out = dlogits + row * size;
            if (scale[row] == 0.0f) {
                std::fill(out, out + size, 0.0f);
                continue;
            }
            kernels.scaled_exponentials(logits + row * size, size, logsumexp[row], scale[row], out);
            const int64_t label = labels[row] - first;
            if (label >= 0 && label < size) out[label] -= scale[row];
        }
    });
}

double squared_norm(const float* x, int64_t size) {
    const TrainingKernels& kernels = training_kernels();
    const int64_t ranges = (size + kGrain - 1) / kGrain;
    std::vector<double> parts(ranges);
    parallel_for(ranges, 1, [&](int64_t begin, int64_t end) {
        for (int64_t range = begin; range < end; range++)
            parts[range] =
                kernels.sum_of_squares(x + range * kGrain, std::min(kGrain, size - range * kGrain));
    });
    double sum = 0;
    for (const double part : parts) sum += part;
    return sum;
}

void adamw_step(const AdamW& step, const float* gradient, int64_t size, float* parameter, float* moment1,
                float* moment2) {
    const TrainingKernels& kernels = training_kernels();
    parallel_for(size, kGrain, [&](int64_t begin, int64_t end) {
        kernels.adamw(step, gradient + begin, end - begin, parameter + begin, moment1 + begin,
                      moment2 + begin);
    });
}

}  // namespace paddle_glm
