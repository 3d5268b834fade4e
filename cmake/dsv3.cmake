# The project's CMake vocabulary: compiler settings once, and one function per kind of target.
#   dsv3_library(name [DEPS …])  a static library of every *.cpp in this folder (not below it)
#   dsv3_binary(name [DEPS …])   an executable of every *.cpp in this folder, put into <build>/bin
#   dsv3_test(name [DEPS …])     a GoogleTest binary of every *_test.cpp in this folder; each TEST is one ctest entry

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")
if(DSV3_FUZZ OR DSV3_SANITIZE)
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1")  # builds in half the time, and is quick enough
endif()
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

find_program(DSV3_CCACHE ccache)
if(DSV3_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${DSV3_CCACHE})
endif()

add_library(dsv3_options INTERFACE)
target_compile_options(dsv3_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-missing-field-initializers>)
target_include_directories(dsv3_options INTERFACE ${CMAKE_SOURCE_DIR})
if(DSV3_SANITIZE)
  target_compile_options(dsv3_options INTERFACE -fsanitize=${DSV3_SANITIZE} -fno-omit-frame-pointer
                         -fno-sanitize-recover=all)
  target_link_options(dsv3_options INTERFACE -fsanitize=${DSV3_SANITIZE})
endif()

function(dsv3_library name)
  cmake_parse_arguments(ARG "" "" "DEPS;PRIVATE" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  if(sources)
    add_library(${name} STATIC ${sources})
    target_link_libraries(${name} PUBLIC dsv3_options ${ARG_DEPS} PRIVATE ${ARG_PRIVATE})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE dsv3_options ${ARG_DEPS})
  endif()
endfunction()

function(dsv3_binary name)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  if(sources)
    add_executable(${name} ${sources})
    target_link_libraries(${name} PRIVATE dsv3_options ${ARG_DEPS})
  endif()
endfunction()

function(dsv3_test name)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  if(sources)
    add_executable(${name} ${sources})
    target_link_libraries(${name} PRIVATE dsv3_options ${ARG_DEPS} GTest::gtest_main)
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test-bin)
    target_compile_options(${name} PRIVATE -O1)  # tests are built far more often than they run long
    target_compile_definitions(${name} PRIVATE DSV3_SOURCE_DIR="${CMAKE_SOURCE_DIR}" DSV3_BIN_DIR="${CMAKE_BINARY_DIR}/bin")
    gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 120 LABELS ${name}
                         ENVIRONMENT "OMP_WAIT_POLICY=passive")
  endif()
endfunction()
