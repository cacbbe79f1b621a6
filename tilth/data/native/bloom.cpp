// n-grams of words per paragraph, and a Bloom filter that paragraphs pass in order. The plain form is bloom.py.
#include <cstdint>
#include <cstring>
#include <vector>

#include "unicode.hpp"
#include "xxhash.hpp"

#define API extern "C" __attribute__((visibility("default")))

namespace {

constexpr uint64_t STEP = 0x9e3779b97f4a7c15ull;

uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

uint64_t place(uint64_t h, int i, uint64_t bits) {
    return uint64_t((unsigned __int128)mix(h + STEP * (i + 1)) * bits >> 64);
}

bool holds(const uint64_t* filter, uint64_t bits, int k, uint64_t h) {
    for (int i = 0; i < k; ++i) {
        uint64_t at = place(h, i, bits);
        if (!(filter[at >> 6] >> (at & 63) & 1)) return false;
    }
    return true;
}

void put(uint64_t* filter, uint64_t bits, int k, uint64_t h) {
    for (int i = 0; i < k; ++i) {
        uint64_t at = place(h, i, bits);
        filter[at >> 6] |= 1ull << (at & 63);
    }
}

bool alone(uint32_t c) {  // written without spaces between words: each is one
    return (c >= 0x3040 && c <= 0x309f) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x4e00 && c <= 0x9fff) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x20000 && c <= 0x3ffff);
}

// Hashes of the words of a paragraph.
void words(const uint32_t* flags, const uint8_t* p, const uint8_t* end, std::vector<uint64_t>& out) {
    out.clear();
    const uint32_t inside = unicode::WORD | unicode::MARK;
    int size, next;
    while (p < end) {
        uint32_t c = unicode::decode(p, size), f = flags[c];
        const uint8_t* q = p + size;
        if (f & inside && !alone(c)) {
            while (q < end) {
                uint32_t d = unicode::decode(q, size);
                if (flags[d] & inside && !alone(d)) {
                    q += size;
                } else if (q + size < end && (d == '\'' || d == 0x2019 || d == '.' || d == ',' || d == ':')) {
                    uint32_t e = unicode::decode(q + size, next);
                    uint32_t both = flags[c] & flags[e];
                    if (alone(e) || !(both & (d == ',' ? unicode::DECIMAL : d == ':' ? unicode::LETTER
                                              : d == '.' ? unicode::DECIMAL | unicode::LETTER : unicode::LETTER)))
                        break;
                    q += size;
                    continue;
                } else {
                    break;
                }
                c = d;
            }
        }
        if (!(f & unicode::SPACE)) out.push_back(xxhash::hash64(p, q - p));
        p = q;
    }
}

}  // namespace

// Returns how many n-grams the paragraphs of n texts have; with `hashes` uint64, `rows` and `paragraphs` int32 it writes
// them. ngram 0: each paragraph that is not blank is one item.
API int64_t items(const uint8_t* bytes, const int64_t* offsets, int64_t n, const uint32_t* flags, int ngram,
                  uint64_t* hashes, int32_t* rows, int32_t* paragraphs) {
    std::vector<uint64_t> found;
    int64_t total = 0;
    for (int64_t i = 0; i < n; ++i) {
        const uint8_t *p = bytes + offsets[i], *end = bytes + offsets[i + 1];
        for (int32_t paragraph = 0;; ++paragraph) {
            const void* feed = p < end ? std::memchr(p, '\n', end - p) : nullptr;
            const uint8_t* stop = feed ? static_cast<const uint8_t*>(feed) : end;
            words(flags, p, stop, found);
            const int64_t size = found.size(), length = ngram ? ngram : size;
            for (int64_t w = 0; size && w + length <= size; ++w) {
                if (hashes) {
                    hashes[total] = xxhash::hash64(reinterpret_cast<const uint8_t*>(found.data() + w), 8 * length);
                    rows[total] = int32_t(i);
                    paragraphs[total] = paragraph;
                }
                ++total;
            }
            if (!feed) break;
            p = stop + 1;
        }
    }
    return total;
}

// Passes whole documents in order: n items with their row and paragraph. A paragraph of which a share above `most` is in
// the filter is dropped, the items of others are put in. A document of which a share above `most_whole` was there is
// dropped as a whole (-1). `out` int64 [n, 2] (row, paragraph or -1); returns how many.
API int64_t pass_(uint64_t* filter, uint64_t bits, int k, int64_t n, const uint64_t* hashes, const int64_t* rows,
                 const int64_t* paragraphs, double most, double most_whole, int64_t* out) {
    int64_t dropped = 0;
    for (int64_t i = 0; i < n;) {
        const int64_t row = rows[i], begin = i;
        int64_t seen_in_all = 0;
        while (i < n && rows[i] == row) {
            const int64_t first = i, paragraph = paragraphs[i];
            int64_t seen = 0;
            for (; i < n && rows[i] == row && paragraphs[i] == paragraph; ++i) seen += holds(filter, bits, k, hashes[i]);
            seen_in_all += seen;
            if (double(seen) / double(i - first) > most) {
                out[2 * dropped] = row;
                out[2 * dropped++ + 1] = paragraph;
            } else {
                for (int64_t j = first; j < i; ++j) put(filter, bits, k, hashes[j]);
            }
        }
        if (double(seen_in_all) / double(i - begin) > most_whole) {
            out[2 * dropped] = row;
            out[2 * dropped++ + 1] = -1;
        }
    }
    return dropped;
}

// Puts n items in; or, with `found` bool [n], says which are there.
API void query(uint64_t* filter, uint64_t bits, int k, int64_t n, const uint64_t* hashes, uint8_t* found) {
    for (int64_t i = 0; i < n; ++i) {
        if (found) found[i] = holds(filter, bits, k, hashes[i]);
        else put(filter, bits, k, hashes[i]);
    }
}
