# PADDLE_GLM_PYTHON: the Python whose wheels are linked, and package_folder(), which asks it where they are.
set(_venv_python "${CMAKE_CURRENT_SOURCE_DIR}/../.venv/bin/python")
if(NOT EXISTS "${_venv_python}")
  set(_venv_python python3)
endif()
set(PADDLE_GLM_PYTHON "${_venv_python}" CACHE STRING "Python whose paddlepaddle, onnxruntime and openvino wheels are used")

# Sets `result` to the folder of a package, empty where it is not installed or Python does not run.
function(package_folder package result)
  execute_process(
    COMMAND "${PADDLE_GLM_PYTHON}" -c "
import importlib.util, os
spec = importlib.util.find_spec('${package}')
print(os.path.dirname(spec.origin) if spec and spec.origin else '', end='')"
    OUTPUT_VARIABLE folder ERROR_QUIET)
  set(${result} "${folder}" PARENT_SCOPE)
endfunction()
