#pragma once

#include <cstdint>
#include <cstring>
#include <ext/stdio_sync_filebuf.h>
#include <iostream>
#include <new>

namespace paddle_glm {

// Opened with RTLD_DEEPBIND, a module and its libraries see libstdc++'s own std::cout, while a program may
// have a copy in its place (copy relocation), and only that was constructed: writing to the other one ends
// the process. So each engine makes the streams that it sees before its library does anything; what is
// written to those goes to standard error.
inline void make_standard_streams() {
    static __gnu_cxx::stdio_sync_filebuf<char> buffer(stderr);
    for (std::ostream* stream : {&std::cout, &std::cerr, &std::clog}) {
        std::uintptr_t virtual_table = 0;
        std::memcpy(&virtual_table, static_cast<const void*>(stream), sizeof virtual_table);
        if (virtual_table == 0) new (stream) std::ostream(&buffer);
    }
}

}  // namespace paddle_glm
