# Target `paddle_inference`: from the official SDK (PADDLE_INFERENCE_DIR), or from the pip wheel that
# PADDLE_GLM_PYTHON has. The wheel has the library without inference headers: src/paddle_wheel_api.h.
set(PADDLE_INFERENCE_DIR "" CACHE PATH "folder of the official Paddle Inference SDK; empty: the pip wheel")

add_library(paddle_inference INTERFACE)

if(PADDLE_INFERENCE_DIR)
  find_library(PADDLE_INFERENCE_LIBRARY paddle_inference PATHS "${PADDLE_INFERENCE_DIR}/paddle/lib" NO_DEFAULT_PATH)
  if(NOT PADDLE_INFERENCE_LIBRARY)
    message(FATAL_ERROR "${PADDLE_INFERENCE_DIR}/paddle/lib has no libpaddle_inference: give the SDK's folder")
  endif()
  target_include_directories(paddle_inference SYSTEM INTERFACE "${PADDLE_INFERENCE_DIR}/paddle/include")
  target_link_libraries(paddle_inference INTERFACE "${PADDLE_INFERENCE_LIBRARY}")
  file(GLOB_RECURSE PADDLE_THIRD_PARTY "${PADDLE_INFERENCE_DIR}/third_party/install/*/lib/*.so*")
  set(PADDLE_RPATH "${PADDLE_INFERENCE_DIR}/paddle/lib")
  foreach(library IN LISTS PADDLE_THIRD_PARTY)
    get_filename_component(folder "${library}" DIRECTORY)
    list(APPEND PADDLE_RPATH "${folder}")
  endforeach()
  list(REMOVE_DUPLICATES PADDLE_RPATH)
  target_compile_definitions(paddle_inference INTERFACE PADDLE_GLM_SDK PADDLE_GLM_DISABLE_ONEDNN=DisableMKLDNN)
  return()
endif()

# The wheel's libpaddle.so needs symbols of libpython, although Python is never started: that of any Python of
# the same version will do.
execute_process(
  COMMAND "${PADDLE_GLM_PYTHON}" -c "
import sys, sysconfig
print(sysconfig.get_config_var('LIBDIR'), f'libpython3.{sys.version_info[1]}.so.1.0', sep=';', end='')"
  OUTPUT_VARIABLE _facts RESULT_VARIABLE _failed ERROR_QUIET)
if(_failed)
  message(FATAL_ERROR "${PADDLE_GLM_PYTHON} does not run: set -DPADDLE_GLM_PYTHON, or -DPADDLE_INFERENCE_DIR")
endif()
list(GET _facts 0 _libdir)
list(GET _facts 1 _libpython)
package_folder(paddle PADDLE_DIR)
if(NOT EXISTS "${PADDLE_DIR}/base/libpaddle.so")
  message(FATAL_ERROR "${PADDLE_GLM_PYTHON} has no paddlepaddle: bash tools/setup_env.sh cpu makes .venv with it, "
                      "or set -DPADDLE_GLM_PYTHON or -DPADDLE_INFERENCE_DIR")
endif()
unset(_found CACHE)
find_library(_found NAMES "${_libpython}" HINTS "${_libdir}")
if(NOT _found)
  message(FATAL_ERROR "${_libpython} is neither in ${_libdir} nor in the system's folders: bash tools/setup_cpp.sh "
                      "installs it, or take a Python that was built with a shared library")
endif()
get_filename_component(PYTHON_LIBDIR "${_found}" DIRECTORY)

# Paddle renamed the call; a version has either or both. Searching the library takes seconds, so its time tells
# whether it was done.
file(TIMESTAMP "${PADDLE_DIR}/base/libpaddle.so" _time)
if(NOT "${PADDLE_DIR} ${_time}" STREQUAL "${PADDLE_GLM_SEARCHED}")
  file(STRINGS "${PADDLE_DIR}/base/libpaddle.so" _names REGEX "^_ZN6paddle14AnalysisConfig13DisableONEDNNEv$" LIMIT_COUNT 1)
  set(_disable DisableMKLDNN)
  if(_names)
    set(_disable DisableONEDNN)
  endif()
  set(PADDLE_GLM_SEARCHED "${PADDLE_DIR} ${_time}" CACHE INTERNAL "the library that was searched")
  set(PADDLE_GLM_DISABLE_ONEDNN "${_disable}" CACHE INTERNAL "what it calls turning oneDNN off")
endif()

target_include_directories(paddle_inference SYSTEM INTERFACE
  "${PADDLE_DIR}/include" "${PADDLE_DIR}/include/third_party")
target_compile_definitions(paddle_inference INTERFACE PADDLE_GLM_DISABLE_ONEDNN=${PADDLE_GLM_DISABLE_ONEDNN})
target_link_options(paddle_inference INTERFACE -Wl,--no-as-needed -Wl,--allow-shlib-undefined)
target_link_libraries(paddle_inference INTERFACE
  "${PADDLE_DIR}/base/libpaddle.so" "${PADDLE_DIR}/libs/libphi_core.so" "${PADDLE_DIR}/libs/libphi.so"
  "${PADDLE_DIR}/libs/libcommon.so" "${_found}")
set(PADDLE_RPATH "${PADDLE_DIR}/base" "${PADDLE_DIR}/libs" "${PYTHON_LIBDIR}")
message(STATUS "Paddle: the wheel in ${PADDLE_DIR}")
