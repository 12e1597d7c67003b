# The C++ SDK that tools/build_fastdeploy.sh installed: sets what FastDeploy's own file of this name sets.
set(FASTDEPLOY_INCS "${CMAKE_CURRENT_LIST_DIR}/include")
set(FASTDEPLOY_LIBS "${CMAKE_CURRENT_LIST_DIR}/lib/libfastdeploy.so")
# The layout of std::string that the library has; code that calls it must be compiled with the same.
set(FASTDEPLOY_STRING_ABI @STRING_ABI@)
