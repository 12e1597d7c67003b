# Target `paddle_glm_engine_fastdeploy`, on the C++ SDK of FastDeploy 1.x: its FastDeploy.cmake sets
# FASTDEPLOY_INCS and FASTDEPLOY_LIBS, and that of tools/build_fastdeploy.sh FASTDEPLOY_STRING_ABI.
if(NOT EXISTS "${FASTDEPLOY_INSTALL_DIR}/FastDeploy.cmake")
  message(FATAL_ERROR "${FASTDEPLOY_INSTALL_DIR} has no FastDeploy.cmake: give the folder that FastDeploy 1.x was installed to")
endif()
include("${FASTDEPLOY_INSTALL_DIR}/FastDeploy.cmake")
add_library(paddle_glm_engine_fastdeploy MODULE src/engine_fastdeploy.cc src/fastdeploy_runtime.cc src/array_engine.cc)
if(DEFINED FASTDEPLOY_STRING_ABI)
  set_source_files_properties(src/fastdeploy_runtime.cc PROPERTIES
    COMPILE_DEFINITIONS _GLIBCXX_USE_CXX11_ABI=${FASTDEPLOY_STRING_ABI})
endif()
target_include_directories(paddle_glm_engine_fastdeploy SYSTEM PRIVATE ${FASTDEPLOY_INCS})
# A library with another layout of std::string is found out here, not at run time.
target_link_options(paddle_glm_engine_fastdeploy PRIVATE -Wl,--no-undefined)
target_link_libraries(paddle_glm_engine_fastdeploy PRIVATE ${FASTDEPLOY_LIBS})
set_target_properties(paddle_glm_engine_fastdeploy PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
