// ONNX Runtime's own header, and what FastDeploy 1.x uses of 1.13 and older: names of inputs and outputs as
// strings that the caller frees.
#pragma once

#include_next <onnxruntime_cxx_api.h>

#if ORT_API_VERSION >= 14
namespace Ort {

struct NamedSession : Session {
    using Session::Session;

    char* GetInputName(size_t index, OrtAllocator* allocator) const {
        return GetInputNameAllocated(index, allocator).release();
    }
    char* GetOutputName(size_t index, OrtAllocator* allocator) const {
        return GetOutputNameAllocated(index, allocator).release();
    }
};

}  // namespace Ort
#define Session NamedSession
#endif
