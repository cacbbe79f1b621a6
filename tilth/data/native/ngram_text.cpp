// Words as runs of word characters or of signs (the pattern \w+|[^\w\s]+), and what is computed from chains of them:
// the log-probability of a text under an n-gram model, and the importance of its hashed words and pairs of words.
#include <cstdint>
#include <cstring>
#include <vector>

#include "unicode.hpp"
#include "xxhash.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr uint64_t FNV_START = 14695981039346656037ull, FNV_PRIME = 1099511628211ull;
constexpr uint64_t SPREAD = 0x9e3779b97f4a7c15ull;
enum : int32_t { LOWER_CASE = 1, ZERO_DIGITS = 2 };

inline int kind(const uint32_t* flags, uint32_t c) {
    const uint32_t f = flags[c];
    return f & unicode::WORD ? 2 : f & unicode::SPACE ? 0 : 1;
}

template <class F>
inline void each_word(const uint8_t* p, const uint8_t* stop, const uint32_t* flags, F f) {
    const uint8_t* begin = nullptr;
    int of = 0;
    while (p < stop) {
        int size;
        const int now = kind(flags, unicode::decode(p, size));
        if (now != of) {
            if (of) f(begin, p);
            begin = p, of = now;
        }
        p += size;
    }
    if (of) f(begin, stop);
}

// FNV-1a of a word's UTF-8 after lower-casing and with every decimal digit as 0; never 0.
inline uint64_t word_key(const uint8_t* p, const uint8_t* stop, const uint32_t* flags, const uint32_t* lower,
                         int32_t options) {
    uint64_t h = FNV_START;
    while (p < stop) {
        int size;
        uint32_t c = unicode::decode(p, size);
        p += size;
        if (options & LOWER_CASE) c = lower[c];
        if (options & ZERO_DIGITS && flags[c] & unicode::DECIMAL) c = '0';
        uint8_t out[4];
        const int n = unicode::encode(c, out);
        for (int i = 0; i < n; i++) h = (h ^ out[i]) * FNV_PRIME;
    }
    return h ? h : 1;
}

struct Entry { uint64_t key; float log_p, log_left; };  // NaN: not there
constexpr uint64_t EMPTY = ~0ull;

inline const Entry* look_up(const Entry* entries, uint64_t mask, uint64_t key) {
    for (uint64_t i = key * SPREAD >> 20;; i++) {
        const Entry& e = entries[i & mask];
        if (e.key == key) return &e;
        if (e.key == EMPTY) return nullptr;
    }
}

}  // namespace

// Keys of the words of n texts; text i has out[places[i] : places[i + 1]]. With out null only counts.
EXPORT void words(const uint8_t* bytes, const int64_t* starts, const int64_t* stops, int64_t n, const uint32_t* flags,
                  const uint32_t* lower, int32_t options, int64_t* places, uint64_t* out) {
    int64_t count = places[0] = 0;
    for (int64_t d = 0; d < n; d++) {
        each_word(bytes + starts[d], bytes + stops[d], flags, [&](const uint8_t* p, const uint8_t* stop) {
            if (out) out[count] = word_key(p, stop, flags, lower, options);
            count++;
        });
        places[d + 1] = count;
    }
}

// Puts values of one kind (0: log_p, 1: log_left) under their keys into a table whose empty slots hold EMPTY and NaN.
EXPORT void fill(const uint64_t* keys, const float* values, int64_t n, int32_t which, Entry* entries, uint64_t mask) {
    for (int64_t k = 0; k < n; k++) {
        uint64_t i = keys[k] * SPREAD >> 20;
        while (entries[i & mask].key != EMPTY && entries[i & mask].key != keys[k]) i++;
        Entry& e = entries[i & mask];
        e.key = keys[k];
        (which ? e.log_left : e.log_p) = values[k];
    }
}

// Puts n distinct non-zero keys into empty (zero) slots; rows[slot] is the place of the key.
EXPORT void number(const uint64_t* keys, int64_t n, uint64_t* slots, uint32_t* rows, uint64_t mask) {
    for (int64_t k = 0; k < n; k++) {
        uint64_t i = keys[k] * SPREAD >> 20;
        while (slots[i & mask]) i++;
        slots[i & mask] = keys[k];
        rows[i & mask] = uint32_t(k);
    }
}

// log_p[i] = log-probability of text i, symbols[i] = how many symbols it has. A symbol is a byte where `slots` is null,
// otherwise a word's number, `unknown` for one that has none. tables[k] holds n-grams of k + 1 symbols and contexts of
// as many; log_left and log_uniform are those of the empty context.
EXPORT void log_probability(const uint8_t* bytes, const int64_t* starts, const int64_t* stops, int64_t n,
                            const uint32_t* flags, const uint32_t* lower, int32_t options, const uint64_t* slots,
                            const uint32_t* rows, uint64_t slot_mask, uint32_t unknown, int32_t order, int32_t bits,
                            const Entry* const* tables, const uint64_t* masks, double log_left, double log_uniform,
                            double* log_p, int64_t* symbols) {
    const uint64_t all = order * bits == 64 ? ~0ull : (1ull << order * bits) - 1;
    std::vector<uint64_t> grams;
    for (int64_t d = 0; d < n; d++) {
        uint64_t gram = all;  // edge marks
        grams.clear();
        const auto push = [&](uint64_t s) { grams.push_back(gram = (gram << bits | s) & all); };
        if (!slots) {
            for (const uint8_t* p = bytes + starts[d]; p < bytes + stops[d]; p++) push(*p);
        } else {
            each_word(bytes + starts[d], bytes + stops[d], flags, [&](const uint8_t* p, const uint8_t* stop) {
                const uint64_t key = word_key(p, stop, flags, lower, options);
                uint64_t i = key * SPREAD >> 20;
                while (slots[i & slot_mask] && slots[i & slot_mask] != key) i++;
                push(slots[i & slot_mask] ? rows[i & slot_mask] : unknown);
            });
        }
        double sum = 0;
        for (size_t g = 0; g < grams.size(); g++) {
            if (g + 8 < grams.size())  // the table of the longest n-grams is far larger than any cache
                __builtin_prefetch(&tables[order - 1][(grams[g + 8] * SPREAD >> 20) & masks[order - 1]]);
            double found = 0;
            int k = order;
            for (; k > 0; k--) {
                const uint64_t part = k * bits == 64 ? grams[g] : grams[g] & ((1ull << k * bits) - 1);
                const Entry* e = look_up(tables[k - 1], masks[k - 1], part);
                if (e && e->log_p == e->log_p) {
                    found += double(e->log_p);
                    break;
                }
                if (k == 1) continue;
                e = look_up(tables[k - 2], masks[k - 2], part >> bits);
                if (e && e->log_left == e->log_left) found += double(e->log_left);
            }
            sum += k ? found : found + log_left + log_uniform;
        }
        log_p[d] = sum;
        symbols[d] = int64_t(grams.size());
    }
}

// For every text the buckets of its words and of its pairs of neighbouring words ("a b"), xxh64 modulo `buckets`:
// counts[bucket] grows by one for each (where counts is not null), sums[i] by ratio[bucket] (where sums is not null).
// sizes[i] is how many there are.
EXPORT void importance(const uint8_t* bytes, const int64_t* starts, const int64_t* stops, int64_t n,
                       const uint32_t* flags, int64_t buckets, const double* ratio, int64_t* counts, double* sums,
                       int64_t* sizes) {
    std::vector<uint8_t> pair;
    for (int64_t d = 0; d < n; d++) {
        double sum = 0;
        int64_t size = 0;
        const auto add = [&](uint64_t h) {
            const int64_t bucket = int64_t(h % uint64_t(buckets));
            if (counts) counts[bucket]++;
            if (sums) sum += ratio[bucket];
            size++;
        };
        pair.clear();
        each_word(bytes + starts[d], bytes + stops[d], flags, [&](const uint8_t* p, const uint8_t* stop) {
            const size_t word = size_t(stop - p), before = pair.size();
            add(xxhash::hash64(p, word));
            if (before) {
                pair.push_back(' ');
                pair.insert(pair.end(), p, stop);
                add(xxhash::hash64(pair.data(), pair.size()));
            }
            pair.assign(p, stop);
        });
        if (sums) sums[d] = sum;
        sizes[d] = size;
    }
}
