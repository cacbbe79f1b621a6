// Numbers for the words and n-grams of a text, shared by kernels: exact, as what has the same hash is compared.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace ids {

inline uint64_t mix(uint64_t h, uint64_t v) {
    __uint128_t m = (__uint128_t)(h ^ v ^ 0x9e3779b97f4a7c15ull) * 0xd6e8feb86659fd93ull;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}
constexpr size_t SLACK = 8;  // bytes that can be read behind a word

// The first n < 8 bytes at p, of which 8 can be read.
inline uint64_t head(const uint8_t* p, size_t n) {
    uint64_t v;
    std::memcpy(&v, p, 8);
    return v & ((1ull << (8 * n)) - 1);
}
inline uint64_t hash_bytes(const uint8_t* p, size_t n) {
    uint64_t h = n, v;
    while (n >= 8) { std::memcpy(&v, p, 8); h = mix(h, v); p += 8; n -= 8; }
    return n ? mix(h, head(p, n)) : h;
}
inline bool same(const uint8_t* a, const uint8_t* b, size_t n) {
    for (; n >= 8; a += 8, b += 8, n -= 8) {
        uint64_t x, y;
        std::memcpy(&x, a, 8);
        std::memcpy(&y, b, 8);
        if (x != y) return false;
    }
    return !n || head(a, n) == head(b, n);
}

// Distinct keys in order of first appearance, with how often each came; exact, as keys are compared.
struct Ids {
    std::vector<uint32_t> slots;
    uint32_t mask = 0;
    void clear(size_t expected) {
        size_t size = 16;
        while (size < expected * 2) size *= 2;
        if (slots.size() < size) slots.resize(size);
        mask = uint32_t(size - 1);
        std::memset(slots.data(), 0, size * sizeof(uint32_t));
    }
};

// Bytes of words one behind the other, each word once. Words are given with SLACK.
struct Words : Ids {
    std::vector<uint8_t> bytes;
    size_t used = 0;
    struct Word { uint64_t hash; uint32_t at; uint32_t size; uint32_t count; uint32_t chars; };
    std::vector<Word> all;
    static constexpr uint32_t NONE = 0xffffffff;

    void clear(size_t expected) { Ids::clear(expected); used = 0; all.clear(); }
    uint32_t find(const uint8_t* p, uint32_t n) const {
        uint64_t h = hash_bytes(p, n);
        for (uint32_t s = uint32_t(h >> 20) & mask;; s = (s + 1) & mask) {
            uint32_t id = slots[s];
            if (!id) return NONE;
            const Word& w = all[id - 1];
            if (w.hash == h && w.size == n && same(bytes.data() + w.at, p, n)) return id - 1;
        }
    }
    uint32_t add(const uint8_t* p, uint32_t n, uint32_t chars) {
        uint64_t h = hash_bytes(p, n);
        uint32_t s = uint32_t(h >> 20) & mask;
        for (;; s = (s + 1) & mask) {
            uint32_t id = slots[s];
            if (!id) break;
            Word& w = all[id - 1];
            if (w.hash == h && w.size == n && same(bytes.data() + w.at, p, n)) { ++w.count; return id - 1; }
        }
        uint32_t at = uint32_t(used);
        all.push_back({h, at, n, 1, chars});
        if (bytes.size() < used + n + SLACK) bytes.resize(2 * (used + n + SLACK));
        std::memcpy(bytes.data() + used, p, n);
        used += n;
        slots[s] = uint32_t(all.size());
        if (all.size() * 2 > size_t(mask) + 1) grow();
        return uint32_t(all.size() - 1);
    }
    void grow() {
        Ids::clear(all.size() * 2);
        for (uint32_t id = 0; id < all.size(); ++id) {
            uint32_t s = uint32_t(all[id].hash >> 20) & mask;
            while (slots[s]) s = (s + 1) & mask;
            slots[s] = id + 1;
        }
    }
};

// Pairs of ids: an n-gram is the pair of the (n-1)-gram it begins with and the one it ends with.
struct Pairs : Ids {
    std::vector<uint64_t> keys;
    std::vector<uint32_t> counts;
    void clear(size_t expected) { Ids::clear(expected); keys.clear(); counts.clear(); }
    uint32_t add(uint32_t a, uint32_t b) {
        uint64_t key = (uint64_t)a << 32 | b;
        uint32_t s = uint32_t(mix(0, key) >> 20) & mask;
        for (;; s = (s + 1) & mask) {
            uint32_t id = slots[s];
            if (!id) break;
            if (keys[id - 1] == key) { ++counts[id - 1]; return id - 1; }
        }
        keys.push_back(key);
        counts.push_back(1);
        slots[s] = uint32_t(keys.size());
        return uint32_t(keys.size() - 1);
    }
};

}  // namespace ids
