// Counts of kinds of characters and of lines. The plain form is shape.py; counts are written in its order.
#include <cstdint>
#include <initializer_list>

#include "unicode.hpp"

extern "C" __attribute__((visibility("default"))) void shape(const uint8_t* bytes, const int64_t* offsets, int64_t n,
                                                             const uint32_t* flags, int64_t* out) {
    for (int64_t i = 0; i < n; ++i) {
        int64_t chars = 0, lines = 1, longest = 0, alnum = 0, alpha = 0, digits = 0, spaces = 0, upper = 0, line = 0;
        int size = 1;
        for (const uint8_t *p = bytes + offsets[i], *end = bytes + offsets[i + 1]; p < end; p += size) {
            uint32_t f = flags[unicode::decode(p, size)];
            ++chars;
            alnum += (f & unicode::ALNUM) != 0;
            alpha += (f & unicode::ALPHA) != 0;
            digits += (f & unicode::DECIMAL) != 0;
            spaces += (f & unicode::SPACE) != 0;
            upper += (f & unicode::UPPER) != 0;
            if (*p == '\n') {
                if (chars - 1 - line > longest) longest = chars - 1 - line;
                line = chars;
                ++lines;
            }
        }
        if (chars - line > longest) longest = chars - line;
        for (int64_t v : {chars, lines, longest, alnum, alpha, digits, spaces, upper}) *out++ = v;
    }
}
