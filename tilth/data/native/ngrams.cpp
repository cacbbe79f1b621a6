// Which texts may hold one of a set of runs of words. See ngrams.py, which is the specification.
#include <algorithm>
#include <vector>

#include "hashing.hpp"
#include "unicode.hpp"

namespace {

constexpr int64_t BITS = 20;  // of a filter that fits the cache, before the sorted keys are searched

inline bool punctuation(uint32_t c) {
    return (c >= 0x21 && c <= 0x2f) || (c >= 0x3a && c <= 0x40) || (c >= 0x5b && c <= 0x60) || (c >= 0x7b && c <= 0x7e);
}

}  // namespace

extern "C" {

// found[i] = 1 for each of n texts with a run of `length` words whose hash is among `keys` (sorted, m of them).
// A character of a script without spaces, with its marks, is a word of its own.
// bare: words are lower-cased, without punctuation; those that are nothing else do not count.
__attribute__((visibility("default"))) void flag(
    const uint8_t* bytes, const int64_t* offsets, int64_t n, const uint32_t* flags, const uint32_t* lower, int32_t bare,
    int64_t length, const uint64_t* keys, int64_t m, uint8_t* found) {
    std::vector<uint64_t> filter(1 << (BITS - 6)), last(length);
    for (int64_t i = 0; i < m; i++) filter[keys[i] >> (70 - BITS)] |= 1ull << ((keys[i] >> (64 - BITS)) & 63);
    int16_t ascii[128];  // what to put; -1: white space, -2: nothing
    for (uint32_t c = 0; c < 128; c++)
        ascii[c] = flags[c] & unicode::SPACE ? -1 : !bare ? c : punctuation(c) ? -2 : static_cast<int16_t>(lower[c]);
    std::vector<uint8_t> word;
    const hashing::Rolling fresh(hashing::BASE1, length);
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *p = bytes + offsets[i], *end = bytes + offsets[i + 1];
        if (word.size() < static_cast<size_t>(2 * (end - p) + 8)) word.resize(2 * (end - p) + 8);  // ȺȺ grows by half
        uint8_t* const put = word.data();
        hashing::Rolling hash = fresh;
        int64_t count = 0, slot = 0;
        while (p < end) {
            int64_t size = 0;
            const uint8_t* const first = p;
            for (bool space = false, alone = false; p < end && !space;) {
                if (*p < 0x80) {
                    if (alone) break;
                    const int16_t what = ascii[*p++];
                    space = what == -1;
                    if (what >= 0) put[size++] = static_cast<uint8_t>(what);
                } else {
                    int step;
                    const uint32_t c = unicode::decode(p, step);
                    const bool unspaced = flags[c] & unicode::UNSPACED, mark = flags[c] & unicode::MARK;
                    if (alone ? !(unspaced && mark) : unspaced && !mark && p > first) break;  // the next word begins
                    alone = alone || (unspaced && !mark);
                    p += step;
                    space = flags[c] & unicode::SPACE;
                    if (!space && !(bare && flags[c] & unicode::PUNCTUATION))
                        size += unicode::encode(bare ? lower[c] : c, put + size);
                }
            }
            if (!size) continue;
            const uint64_t value = hashing::bytes(put, size);
            count++ < length ? hash.push(value) : hash.push(value, last[slot]);
            last[slot] = value;
            if (++slot == length) slot = 0;
            if (count < length) continue;
            const uint64_t key = hashing::mix(hash.value);
            if (filter[key >> (70 - BITS)] >> ((key >> (64 - BITS)) & 63) & 1 && std::binary_search(keys, keys + m, key)) {
                found[i] = 1;
                break;
            }
        }
    }
}

}  // extern "C"
