# Third-party libraries, linked statically: the binary is one file that needs only the C library.
# The Makefile's apt package list installs them on Debian.
find_package(Threads REQUIRED)

function(edgewise_static_library name file)
  find_library(EDGEWISE_${name} NAMES ${file} REQUIRED)
  add_library(third_party::${name} INTERFACE IMPORTED)
  target_link_libraries(third_party::${name} INTERFACE ${EDGEWISE_${name}} ${ARGN})
endfunction()

edgewise_static_library(pcre2 libpcre2-8.a)
edgewise_static_library(utf8proc libutf8proc.a)
edgewise_static_library(yaml libyaml-cpp.a)
edgewise_static_library(protobuf libprotobuf-lite.a Threads::Threads)
edgewise_static_library(flatbuffers libflatbuffers.a)
edgewise_static_library(xxhash libxxhash.a)
edgewise_static_library(crypto libcrypto.a Threads::Threads ${CMAKE_DL_LIBS})
edgewise_static_library(ssl libssl.a third_party::crypto)
edgewise_static_library(event_core libevent.a Threads::Threads)
edgewise_static_library(event libevent_pthreads.a third_party::event_core)
target_compile_definitions(third_party::utf8proc INTERFACE UTF8PROC_STATIC)

find_program(EDGEWISE_PROTOC protoc REQUIRED)
find_program(EDGEWISE_FLATC flatc REQUIRED)
if(EDGEWISE_TESTS)
  find_package(GTest REQUIRED)
endif()
