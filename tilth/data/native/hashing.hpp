// Hashes of words and of runs of words, as hashing.py has them.
#pragma once
#include <cstdint>
#include <cstring>

namespace hashing {

constexpr uint64_t BASE1 = 0x9E3779B97F4A7C15ull, BASE2 = 0xD1342543DE82EF95ull;  // odd

// The finaliser of SplitMix64 (Steele et al. 2014): a bijection in which every input bit moves every output bit.
inline uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// A chain of `mix` over 8 bytes at a time; little-endian machines only, like Arrow.
inline uint64_t bytes(const uint8_t* p, int64_t n) {
    uint64_t h = BASE1 ^ static_cast<uint64_t>(n), word;
    for (; n >= 8; p += 8, n -= 8) {
        std::memcpy(&word, p, 8);
        h = mix(h ^ word);
    }
    if (n) {
        word = 0;
        std::memcpy(&word, p, static_cast<size_t>(n));
        h = mix(h ^ word);
    }
    return h;
}

// The polynomial of the last `length` values pushed, modulo 2^64.
struct Rolling {
    uint64_t base, drop = 1, value = 0;
    Rolling(uint64_t b, int64_t length) : base(b) { for (int64_t i = 0; i < length; i++) drop *= b; }
    void push(uint64_t in) { value = value * base + in; }
    void push(uint64_t in, uint64_t out) { value = value * base + in - out * drop; }
};

}  // namespace hashing
