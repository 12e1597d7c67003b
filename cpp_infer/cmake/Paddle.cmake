# Target `paddle_inference`: from the official SDK (PADDLE_INFERENCE_DIR), or from the pip wheel that
# PADDLE_GLM_PYTHON has. The wheel has the library without inference headers: src/paddle_wheel_api.h.
set(PADDLE_INFERENCE_DIR "" CACHE PATH "folder of the official Paddle Inference SDK; empty: the pip wheel")
set(_venv_python "${CMAKE_CURRENT_SOURCE_DIR}/../.venv/bin/python")
if(NOT EXISTS "${_venv_python}")
  set(_venv_python python3)
endif()
set(PADDLE_GLM_PYTHON "${_venv_python}" CACHE STRING "Python whose paddlepaddle wheel is linked")

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

# The wheel's libpaddle.so needs symbols of libpython, although Python is never started.
execute_process(
  COMMAND "${PADDLE_GLM_PYTHON}" -c "
import importlib.util, os, sysconfig as s
spec = importlib.util.find_spec('paddle')
print(os.path.dirname(spec.origin) if spec else '', s.get_config_var('LIBDIR'),
      s.get_config_var('INSTSONAME'), s.get_path('include'), sep=';', end='')"
  OUTPUT_VARIABLE _facts RESULT_VARIABLE _failed)
if(_failed)
  message(FATAL_ERROR "${PADDLE_GLM_PYTHON} does not run: set -DPADDLE_GLM_PYTHON, or -DPADDLE_INFERENCE_DIR")
endif()
list(GET _facts 0 PADDLE_DIR)
list(GET _facts 1 PYTHON_LIBDIR)
list(GET _facts 2 PYTHON_LIBRARY)
list(GET _facts 3 PYTHON_INCLUDE)
if(NOT EXISTS "${PADDLE_DIR}/base/libpaddle.so")
  message(FATAL_ERROR "${PADDLE_GLM_PYTHON} has no paddlepaddle: bash tools/setup_env.sh cpu makes .venv with it, "
                      "or set -DPADDLE_GLM_PYTHON or -DPADDLE_INFERENCE_DIR")
endif()
if(NOT PYTHON_LIBRARY MATCHES "\\.so" OR NOT EXISTS "${PYTHON_LIBDIR}/${PYTHON_LIBRARY}")
  message(FATAL_ERROR "${PYTHON_LIBDIR}/${PYTHON_LIBRARY} is no shared library: the wheel needs a Python with a shared library "
                      "(Debian and Ubuntu: apt-get install libpython3-dev)")
endif()

# Paddle renamed the call; a version has either or both.
file(STRINGS "${PADDLE_DIR}/base/libpaddle.so" _names REGEX "^_ZN6paddle14AnalysisConfig13DisableONEDNNEv$" LIMIT_COUNT 1)
set(_disable DisableMKLDNN)
if(_names)
  set(_disable DisableONEDNN)
endif()

target_include_directories(paddle_inference SYSTEM INTERFACE
  "${PADDLE_DIR}/include" "${PADDLE_DIR}/include/third_party" "${PYTHON_INCLUDE}")
target_compile_definitions(paddle_inference INTERFACE PADDLE_GLM_DISABLE_ONEDNN=${_disable})
target_link_options(paddle_inference INTERFACE -Wl,--no-as-needed -Wl,--allow-shlib-undefined)
target_link_libraries(paddle_inference INTERFACE
  "${PADDLE_DIR}/base/libpaddle.so" "${PADDLE_DIR}/libs/libphi_core.so" "${PADDLE_DIR}/libs/libphi.so"
  "${PADDLE_DIR}/libs/libcommon.so" "${PYTHON_LIBDIR}/${PYTHON_LIBRARY}")
set(PADDLE_RPATH "${PADDLE_DIR}/base" "${PADDLE_DIR}/libs" "${PYTHON_LIBDIR}")
message(STATUS "Paddle: the wheel in ${PADDLE_DIR}")
