# The native CPU kernels of graphs with their operators, beside the engine that loads them: the library that
# `paddle-glm kernels` builds, for the wheel's Paddle. With the SDK, --kernels names one that was built for it.
option(PADDLE_GLM_KERNELS "build the native CPU kernels" ON)
if(NOT PADDLE_GLM_KERNELS OR PADDLE_INFERENCE_DIR)
  return()
endif()
set(_root "${CMAKE_CURRENT_SOURCE_DIR}/..")
set(_library "${CMAKE_BINARY_DIR}/libpaddle_glm_kernels.so")
file(GLOB _sources CONFIGURE_DEPENDS "${_root}/paddle_glm/kernels/csrc/*" "${_root}/paddle_glm/kernels/build.py")
add_custom_command(
  OUTPUT "${_library}" DEPENDS ${_sources}
  COMMAND "${CMAKE_COMMAND}" -E env "PYTHONPATH=${_root}" "CXX=${CMAKE_CXX_COMPILER}" "${PADDLE_GLM_PYTHON}" -c
  "import shutil, sys; from paddle_glm.kernels.build import built_library; shutil.copy(built_library(print), sys.argv[1])"
  "${_library}"
  VERBATIM)
add_custom_target(paddle_glm_kernels ALL DEPENDS "${_library}")
install(FILES "${_library}" DESTINATION ${CMAKE_INSTALL_LIBDIR})
