// Declarations of ONNX Runtime's C API, whose pip wheel has the library without headers. The API is a table
// of functions to which versions only append (OrtApi in onnxruntime_c_api.h): an entry's index never changes,
// and neither do the values of its enumerations. `unused_A_B` are the entries A to B.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtEnv;
struct OrtStatus;  // null: success
struct OrtMemoryInfo;
struct OrtSession;
struct OrtValue;
struct OrtRunOptions;
struct OrtTypeInfo;
struct OrtTensorTypeAndShapeInfo;
struct OrtSessionOptions;
struct OrtAllocator;

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_FATAL = 4 };
enum ONNXTensorElementDataType {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
};
enum OrtAllocatorType { OrtDeviceAllocator = 0 };
enum OrtMemType { OrtMemTypeDefault = 0 };

struct OrtApi {
    using Entry = void (*)();

    Entry unused_0_1[2];
    const char* (*GetErrorMessage)(const OrtStatus*);
    OrtStatus* (*CreateEnv)(OrtLoggingLevel, const char* log_id, OrtEnv**);
    Entry unused_4_6[3];
    OrtStatus* (*CreateSession)(const OrtEnv*, const char* file, const OrtSessionOptions*, OrtSession**);
    Entry unused_8_8[1];
    OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const* input_names,
                      const OrtValue* const* inputs, size_t input_count, const char* const* output_names,
                      size_t output_count, OrtValue** outputs);
    OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**);
    Entry unused_11_18[8];
    OrtStatus* (*DisableCpuMemArena)(OrtSessionOptions*);
    Entry unused_20_21[2];
    OrtStatus* (*SetSessionLogSeverityLevel)(OrtSessionOptions*, int level);
    Entry unused_23_23[1];
    OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions*, int count);
    Entry unused_25_29[5];
    OrtStatus* (*SessionGetInputCount)(const OrtSession*, size_t*);
    OrtStatus* (*SessionGetOutputCount)(const OrtSession*, size_t*);
    Entry unused_32_32[1];
    OrtStatus* (*SessionGetInputTypeInfo)(const OrtSession*, size_t index, OrtTypeInfo**);
    Entry unused_34_35[2];
    OrtStatus* (*SessionGetInputName)(const OrtSession*, size_t index, OrtAllocator*, char**);
    OrtStatus* (*SessionGetOutputName)(const OrtSession*, size_t index, OrtAllocator*, char**);
    Entry unused_38_48[11];
    OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void* data, size_t bytes,
                                                 const int64_t* shape, size_t rank, ONNXTensorElementDataType,
                                                 OrtValue**);
    Entry unused_50_50[1];
    OrtStatus* (*GetTensorMutableData)(OrtValue*, void**);
    Entry unused_52_54[3];
    OrtStatus* (*CastTypeInfoToTensorInfo)(const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**);
    Entry unused_56_59[4];
    OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*, ONNXTensorElementDataType*);
    OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, size_t*);
    OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t* sizes, size_t count);
    Entry unused_63_64[2];
    OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo**);
    Entry unused_66_68[3];
    OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);
    Entry unused_70_75[6];
    OrtStatus* (*AllocatorFree)(OrtAllocator*, void*);
    Entry unused_77_77[1];
    OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator**);
    Entry unused_79_91[13];
    void (*ReleaseEnv)(OrtEnv*);
    void (*ReleaseStatus)(OrtStatus*);
    void (*ReleaseMemoryInfo)(OrtMemoryInfo*);
    void (*ReleaseSession)(OrtSession*);
    void (*ReleaseValue)(OrtValue*);
    Entry unused_97_97[1];
    void (*ReleaseTypeInfo)(OrtTypeInfo*);
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);
    void (*ReleaseSessionOptions)(OrtSessionOptions*);
    Entry unused_101_129[29];
    OrtStatus* (*AddSessionConfigEntry)(OrtSessionOptions*, const char* key, const char* value);
};

// Indices of entries in the official header, one after each gap.
#define PADDLE_GLM_ENTRY(name, index) \
    static_assert(offsetof(OrtApi, name) == (index) * sizeof(OrtApi::Entry), "entry " #index " of OrtApi")
PADDLE_GLM_ENTRY(CreateEnv, 3);
PADDLE_GLM_ENTRY(Run, 9);
PADDLE_GLM_ENTRY(DisableCpuMemArena, 19);
PADDLE_GLM_ENTRY(SetSessionLogSeverityLevel, 22);
PADDLE_GLM_ENTRY(SetIntraOpNumThreads, 24);
PADDLE_GLM_ENTRY(SessionGetOutputCount, 31);
PADDLE_GLM_ENTRY(SessionGetOutputName, 37);
PADDLE_GLM_ENTRY(GetTensorMutableData, 51);
PADDLE_GLM_ENTRY(CastTypeInfoToTensorInfo, 55);
PADDLE_GLM_ENTRY(GetTensorTypeAndShape, 65);
PADDLE_GLM_ENTRY(CreateCpuMemoryInfo, 69);
PADDLE_GLM_ENTRY(GetAllocatorWithDefaultOptions, 78);
PADDLE_GLM_ENTRY(ReleaseSessionOptions, 100);
PADDLE_GLM_ENTRY(AddSessionConfigEntry, 130);
#undef PADDLE_GLM_ENTRY

struct OrtApiBase {
    const OrtApi* (*GetApi)(uint32_t version);  // null if the library is older
    const char* (*GetVersionString)();
};
