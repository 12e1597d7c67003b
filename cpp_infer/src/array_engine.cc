#include "array_engine.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace paddle_glm {
namespace {

size_t product(std::vector<int64_t>::const_iterator begin, std::vector<int64_t>::const_iterator end) {
    return std::accumulate(begin, end, size_t{1}, std::multiplies<>());
}

}  // namespace

size_t HostTensor::size() const { return product(shape.begin(), shape.end()); }

HostTensor HostTensor::make(std::vector<int64_t> shape, float*& values) {
    // Libraries require a non-null address even for empty arrays.
    const size_t size = std::max<size_t>(product(shape.begin(), shape.end()), 1);
    const auto room = std::make_shared<std::vector<float>>(size);
    values = room->data();
    return {std::move(shape), {room, room->data()}};
}

ArrayEngine::ArrayEngine(EngineConfig config, bool supports_empty_past)
    : config_(std::move(config)), dummy_column_(!supports_empty_past && config_.prefix_length == 0) {
    for (const CacheSpec& cache : config_.caches) {
        if (cache.dtype != "float32") throw std::runtime_error("a cache of " + cache.dtype + " is not taken");
    }
}

void ArrayEngine::check_inputs(const std::vector<TensorMeta>& found) const {
    std::vector<TensorMeta> expected = config_.token_inputs;
    expected.insert(expected.end(), config_.caches.begin(), config_.caches.end());
    for (const TensorMeta& one : found) {
        const auto same = [&](const TensorMeta& other) {
            return one.name == other.name && one.dtype == other.dtype;
        };
        if (std::none_of(expected.begin(), expected.end(), same)) {
            throw std::runtime_error("it takes " + one.name + " of " + one.dtype +
                                     ", which generation_meta.json does not name");
        }
    }
    if (found.size() != expected.size()) {
        throw std::runtime_error("it takes " + std::to_string(found.size()) +
                                 " inputs, generation_meta.json names " + std::to_string(expected.size()));
    }
}

void ArrayEngine::reset(int64_t batch) {
    past_.clear();
    const int64_t length = dummy_column_ ? 1 : config_.prefix_length;
    for (const CacheSpec& cache : config_.caches) {
        float* place = nullptr;
        past_.push_back(HostTensor::make({batch, cache.shape.at(1), length, cache.shape.at(3)}, place));
        for (int64_t row = 0; row < batch; ++row) {
            place = std::copy(cache.prefix_values.begin(), cache.prefix_values.end(), place);
        }
    }
}

std::vector<float> ArrayEngine::run(const std::vector<EngineInput>& inputs) {
    std::vector<EngineInput> used = inputs;
    std::vector<int64_t> shape, mask;
    if (dummy_column_) {
        EngineInput& input = used.at(2);
        shape = {input.shape->at(0), input.shape->at(1) + 1};
        for (auto row = input.values->begin(); row != input.values->end(); row += input.shape->at(1)) {
            mask.push_back(0);
            mask.insert(mask.end(), row, row + input.shape->at(1));
        }
        input = {input.name, &shape, &mask};
    }
    std::vector<HostTensor> outputs = infer(used, past_);
    if (outputs.size() != past_.size() + 1) {
        throw std::runtime_error("the graph gave " + std::to_string(outputs.size()) + " outputs, expected " +
                                 std::to_string(past_.size() + 1));
    }
    const HostTensor logits = std::move(outputs.front());
    past_.assign(std::make_move_iterator(outputs.begin() + 1), std::make_move_iterator(outputs.end()));
    return {logits.data.get(), logits.data.get() + logits.size()};
}

void ArrayEngine::select(const std::vector<int64_t>& rows) {
    for (HostTensor& tensor : past_) {
        const size_t width = product(tensor.shape.begin() + 1, tensor.shape.end());
        std::vector<int64_t> shape = tensor.shape;
        shape[0] = static_cast<int64_t>(rows.size());
        float* place = nullptr;
        HostTensor chosen = HostTensor::make(std::move(shape), place);
        for (const int64_t row : rows) place = std::copy_n(tensor.data.get() + row * width, width, place);
        tensor = std::move(chosen);
    }
}

}  // namespace paddle_glm
