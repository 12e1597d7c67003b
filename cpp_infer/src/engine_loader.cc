#include "engine_loader.h"

#include <dlfcn.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "mkl.h"
#include "utf8.h"

namespace paddle_glm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kModulePrefix = "libpaddle_glm_engine_";

// DEEPBIND: a module's libraries resolve their own protobuf before SentencePiece's. AddressSanitizer does not
// support it and is used only with engines without libraries.
#ifdef __SANITIZE_ADDRESS__
constexpr int kDlopenFlags = RTLD_NOW | RTLD_LOCAL;
#else
constexpr int kDlopenFlags = RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND;
#endif

// Engines with their graph format and build requirements; the first installed one of a format is the default.
struct Reader {
    const char* engine;
    const char* format;
    const char* build;
    const char* refused_target = "";  // a target whose graphs it cannot run
};
constexpr Reader kReaders[] = {
    {"paddle", "paddle", "bash tools/setup_env.sh cpu, then bash tools/build_cpp.sh"},
    {"onnxruntime", "onnx",
     "pip install -c constraints.txt -e \".[onnx]\" in .venv, then bash tools/build_cpp.sh", "openvino"},
    {"openvino", "onnx",
     "pip install -c constraints.txt -e \".[openvino]\" in .venv, then bash tools/build_cpp.sh"},
    {"fastdeploy", "onnx",
     "build FastDeploy 1.x (https://github.com/PaddlePaddle/FastDeploy, release/1.1.0), then bash "
     "tools/build_cpp.sh -DFASTDEPLOY_INSTALL_DIR=ITS_FOLDER"},
};

fs::path library_folder() {
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(&load_engine), &info) == 0 || info.dli_fname == nullptr)
        return ".";
    return fs::absolute(info.dli_fname).parent_path();
}

fs::path module_file(const fs::path& folder, const std::string& engine) {
    return folder / (kModulePrefix + engine + ".so");
}

std::string installed_engines(const fs::path& folder) {
    std::vector<std::string> names;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
        const std::string stem = entry.path().stem().string();
        if (starts_with(stem, kModulePrefix)) names.push_back(stem.substr(std::string(kModulePrefix).size()));
    }
    std::sort(names.begin(), names.end());
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text.empty() ? "none" : text;
}

// The entry of kReaders for an engine, null for a custom one.
const Reader* reader(const std::string& engine) {
    const auto* const end = std::end(kReaders);
    const auto* found =
        std::find_if(std::begin(kReaders), end, [&](const Reader& one) { return one.engine == engine; });
    return found == end ? nullptr : found;
}

// The requested engine, else the first installed one that reads the graph, else the first that reads it.
std::string choose_engine(const EngineOptions& options, const std::string& format, const std::string& target,
                          const fs::path& folder) {
    std::vector<std::string> readers;
    for (const Reader& one : kReaders) {
        if (one.format == format && one.refused_target != target) readers.emplace_back(one.engine);
    }
    if (options.engine.empty()) {
        for (const std::string& name : readers) {
            if (fs::is_regular_file(module_file(folder, name))) return name;
        }
        return readers.at(0);
    }
    const Reader* asked = reader(options.engine);
    if (asked != nullptr && asked->format != format) {
        std::string names;
        for (const std::string& name : readers)
            names.append(names.empty() ? "--engine " : " or ").append(name);
        throw InputError("engine '" + options.engine + "' reads what `paddle-glm export --format " +
                         asked->format + "` wrote, this folder is in the format " + format + ", for " +
                         names);
    }
    if (asked != nullptr && asked->refused_target == target) {
        throw InputError("this folder was exported for another engine than " + options.engine +
                         ": take --engine " + target +
                         ", or export the model again with --target portable or " + options.engine);
    }
    return options.engine;
}

void check_engine(const std::string& engine, const std::string& backend, const fs::path& folder) {
    if (!backend.empty() && engine != "fastdeploy") {
        throw InputError("backend '" + backend + "' is for engine 'fastdeploy', not for '" + engine + "'");
    }
    if (fs::is_regular_file(module_file(folder, engine))) return;
    std::string text =
        "engine '" + engine + "' is not in " + folder.string() + ", which has " + installed_engines(folder);
    if (const Reader* known = reader(engine); known != nullptr) text.append(": ").append(known->build);
    throw InputError(text);
}

// The library of native operators: that of the options, else of the environment, else beside the engines.
std::string kernels_library(const EngineOptions& options, const fs::path& folder, const std::string& graph) {
    const char* variable = std::getenv("PADDLE_GLM_KERNELS_LIBRARY");
    fs::path file = folder / "libpaddle_glm_kernels.so";
    if (variable != nullptr) file = variable;
    if (!options.kernels.empty()) file = options.kernels;
    const char* use = std::getenv("PADDLE_GLM_KERNELS");
    if (fs::is_regular_file(file) && (use == nullptr || std::string(use) != "0")) return file.string();
    throw InputError(graph + " needs the native CPU kernels, and " + file.string() +
                     " is not there: build them (bash tools/build_cpp.sh), name their library (--kernels), "
                     "or export the model again with --portable");
}

// The first line of a message.
std::string first_line(const std::string& text) {
    const size_t begin = text.find_first_not_of("\n ");
    return begin == text.npos ? text : text.substr(begin, text.find('\n', begin) - begin);
}

}  // namespace

std::unique_ptr<Engine> load_engine(const EngineOptions& options, const std::string& format,
                                    EngineConfig config) {
    const fs::path folder = options.engine_dir.empty() ? library_folder() : fs::path(options.engine_dir);
    const std::string engine = choose_engine(options, format, config.target, folder);
    check_engine(engine, options.backend, folder);
    const fs::path file = module_file(folder, engine);
    if (config.operators > 0) config.kernels_library = kernels_library(options, folder, config.graph_file);
    choose_mkl_instructions();
    void* module = dlopen(file.c_str(), kDlopenFlags);  // never closed: its libraries do not support dlclose
    if (module == nullptr) throw InputError(first_line(dlerror()));
    auto* make = reinterpret_cast<MakeEngine*>(dlsym(module, kMakeEngineSymbol));
    if (make == nullptr) throw InputError(file.string() + " is no engine of this program");
    try {
        return std::unique_ptr<Engine>(make(config));
    } catch (const std::exception& error) {
        throw InputError(config.graph_file + " cannot be opened by engine '" + engine +
                         "': " + first_line(error.what()));
    }
}

int usable_threads(int threads) {
    if (threads > 0) return threads;
    const char* wanted = std::getenv("OMP_NUM_THREADS");
    if (const int count = wanted == nullptr ? 0 : std::atoi(wanted); count > 0) return count;
    cpu_set_t usable;
    CPU_ZERO(&usable);
    return sched_getaffinity(0, sizeof usable, &usable) == 0 ? std::max(CPU_COUNT(&usable), 1) : 1;
}

}  // namespace paddle_glm
