# Stands where the SDK's FastDeploy.cmake stands, for tests: a library of the same API that records what it is
# asked, refuses what FastDeploy refuses, and computes with OpenVINO.
if(NOT TARGET openvino_c)
  message(FATAL_ERROR "the stand-in for FastDeploy computes with the pip wheel of openvino, which is not installed")
endif()
add_library(fastdeploy SHARED "${CMAKE_CURRENT_LIST_DIR}/standin.cc" src/array_engine.cc src/openvino_graph.cc)
target_include_directories(fastdeploy PUBLIC "${CMAKE_CURRENT_LIST_DIR}/include" PRIVATE src)
target_link_libraries(fastdeploy PRIVATE openvino_c)
set_target_properties(fastdeploy PROPERTIES BUILD_RPATH "${OPENVINO_RPATH}")
set(FASTDEPLOY_INCS "${CMAKE_CURRENT_LIST_DIR}/include")
set(FASTDEPLOY_LIBS fastdeploy)

add_executable(standin_test "${CMAKE_CURRENT_LIST_DIR}/standin_test.cc")
target_link_libraries(standin_test PRIVATE fastdeploy)
