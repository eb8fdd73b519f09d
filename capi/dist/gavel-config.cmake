# find_package(gavel) gives gavel::gavel, the static library with what it needs of the system.
get_filename_component(_gavel_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET gavel::gavel)
  find_package(Threads REQUIRED)
  add_library(gavel::gavel STATIC IMPORTED)
  set_target_properties(gavel::gavel PROPERTIES
    IMPORTED_LOCATION "${_gavel_prefix}/lib/libgavel.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_gavel_prefix}/include"
    INTERFACE_LINK_LIBRARIES "Threads::Threads;gcc_s;dl;m;rt;util")
endif()
unset(_gavel_prefix)
