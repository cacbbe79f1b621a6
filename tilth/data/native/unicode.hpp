// UTF-8 and properties of code points, shared by the kernels. The property table comes from Python (unicode.py), so
// both sides agree; bit i is the i-th entry of unicode.BITS.
#pragma once
#include <cstdint>
#include <cstddef>

namespace unicode {

enum : uint32_t {
    ALPHA = 1u << 0, DIGIT = 1u << 1, DECIMAL = 1u << 2, NUMERIC = 1u << 3, SPACE = 1u << 4, UPPER = 1u << 5,
    LOWER = 1u << 6, ALNUM = 1u << 7, PRINTABLE = 1u << 8, WORD = 1u << 9, LINE_BREAK = 1u << 10, LETTER = 1u << 11,
    MARK = 1u << 12, NONSPACING = 1u << 13, NUMBER = 1u << 14, PUNCTUATION = 1u << 15, SYMBOL = 1u << 16,
    UNSPACED = 1u << 17, LATIN = 1u << 18,
};

// The code point that begins at p (valid UTF-8 is assumed, as Arrow strings are); `size` gets its bytes.
inline uint32_t decode(const uint8_t* p, int& size) {
    uint32_t c = *p;
    if (c < 0x80) { size = 1; return c; }
    if (c < 0xe0) { size = 2; return (c & 0x1f) << 6 | (p[1] & 0x3fu); }
    if (c < 0xf0) { size = 3; return (c & 0x0f) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu); }
    size = 4;
    return (c & 0x07) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

// Writes c as UTF-8 at p, returns the bytes written (at most 4).
inline int encode(uint32_t c, uint8_t* p) {
    if (c < 0x80) { p[0] = c; return 1; }
    if (c < 0x800) { p[0] = 0xc0 | c >> 6; p[1] = 0x80 | (c & 0x3f); return 2; }
    if (c < 0x10000) { p[0] = 0xe0 | c >> 12; p[1] = 0x80 | (c >> 6 & 0x3f); p[2] = 0x80 | (c & 0x3f); return 3; }
    p[0] = 0xf0 | c >> 18; p[1] = 0x80 | (c >> 12 & 0x3f); p[2] = 0x80 | (c >> 6 & 0x3f); p[3] = 0x80 | (c & 0x3f);
    return 4;
}

}  // namespace unicode
