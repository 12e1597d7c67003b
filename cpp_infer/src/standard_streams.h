#pragma once

#include <cstdint>
#include <cstring>
#include <ext/stdio_sync_filebuf.h>
#include <iostream>
#include <new>

namespace paddle_glm {

// A module opened with RTLD_DEEPBIND sees libstdc++'s std::cout, while the program may use a copy (copy
// relocation), of which only the latter was constructed: writing to the other crashes. Each engine therefore
// constructs the streams it sees before using its library; their output goes to standard error.
inline void make_standard_streams() {
    static __gnu_cxx::stdio_sync_filebuf<char> buffer(stderr);
    for (std::ostream* stream : {&std::cout, &std::cerr, &std::clog}) {
        std::uintptr_t virtual_table = 0;
        std::memcpy(&virtual_table, static_cast<const void*>(stream), sizeof virtual_table);
        if (virtual_table == 0) new (stream) std::ostream(&buffer);
    }
}

}  // namespace paddle_glm
