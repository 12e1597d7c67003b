// What FastDeploy's OpenVINO and ONNX Runtime backends use of paddle2onnx 1.x, whose C++ library is not
// packaged: the names and order of a graph's inputs and outputs. Paddle's own format is not converted here.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

namespace paddle2onnx {

struct CustomOp {
    char op_name[100] = "null";
    char export_op_name[100] = "null";
};

struct ModelTensorInfo {
    char name[100] = "";
    int64_t* shape = nullptr;
    int32_t rank = 0;
    int32_t dtype = 0;
};

// Of an ONNX graph; as in paddle2onnx, 100 of each at most.
struct OnnxReader {
    static constexpr int kCapacity = 100;
    ModelTensorInfo inputs[kCapacity];
    ModelTensorInfo outputs[kCapacity];
    int num_inputs = 0;
    int num_outputs = 0;

    // buffer: a serialised ModelProto, up to 2 GiB.
    OnnxReader(const char* buffer, int size) {
        constexpr uint64_t kGraphOfModel = 7, kInputOfGraph = 11, kOutputOfGraph = 12, kNameOfValue = 1;
        each_message({buffer, buffer + size}, [&](uint64_t field, Bytes graph) {
            if (field != kGraphOfModel) return;
            each_message(graph, [&](uint64_t part, Bytes value) {
                if (part != kInputOfGraph && part != kOutputOfGraph) return;
                int& count = part == kInputOfGraph ? num_inputs : num_outputs;
                ModelTensorInfo* infos = part == kInputOfGraph ? inputs : outputs;
                each_message(value, [&](uint64_t which, Bytes name) {
                    if (which == kNameOfValue && count < kCapacity) copy_name(name, infos[count]);
                });
                ++count;
            });
        });
    }

  private:
    struct Bytes {
        const char* begin;
        const char* end;
    };

    static void copy_name(Bytes name, ModelTensorInfo& info) {
        const std::string text(name.begin, name.end);
        std::strncpy(info.name, text.c_str(), sizeof(info.name) - 1);
    }

    static uint64_t read_varint(Bytes& bytes) {
        uint64_t value = 0;
        for (int shift = 0; bytes.begin < bytes.end && shift < 64; shift += 7) {
            const auto byte = static_cast<unsigned char>(*bytes.begin++);
            value |= static_cast<uint64_t>(byte & 0x7f) << shift;
            if (byte < 0x80) break;
        }
        return value;
    }

    // Calls visit(field, bytes) for each length-delimited field of a protobuf message.
    template <typename Visit>
    static void each_message(Bytes bytes, Visit visit) {
        enum WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
        while (bytes.begin < bytes.end) {
            const uint64_t key = read_varint(bytes);
            const uint64_t left = static_cast<uint64_t>(bytes.end - bytes.begin);
            uint64_t size = 0;
            switch (key & 7) {
                case kVarint:
                    read_varint(bytes);
                    continue;
                case kFixed64:
                    size = 8;
                    break;
                case kFixed32:
                    size = 4;
                    break;
                case kBytes:
                    size = read_varint(bytes);
                    break;
                default:
                    return;
            }
            if (size > left) return;
            if ((key & 7) == kBytes) visit(key >> 3, Bytes{bytes.begin, bytes.begin + size});
            bytes.begin += size;
        }
    }
};

// Of Paddle's format, which is not read here: a graph without inputs, which FastDeploy refuses.
struct PaddleReader {
    ModelTensorInfo inputs[1];
    ModelTensorInfo outputs[1];
    int num_inputs = 0;
    int num_outputs = 0;
    bool is_quantize_model = false;

    PaddleReader(const char*, int) {}
};

template <typename... Arguments>
bool Export(Arguments&&...) {
    return false;
}

}  // namespace paddle2onnx
