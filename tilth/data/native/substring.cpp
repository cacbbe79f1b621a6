// Words of texts as 64-bit hashes, and the runs of words that may repeat. See substring.py, which is the specification.
#include <algorithm>
#include <vector>

#include "hashing.hpp"
#include "unicode.hpp"

using hashing::mix;

namespace {

// Scripts written without spaces: each of their characters is a word.
inline bool unspaced(uint32_t c) {
    return c >= 0x0e00 && (c <= 0x0e7f || (c >= 0x3040 && c <= 0x30ff) || (c >= 0x3400 && c <= 0x4dbf) ||
                           (c >= 0x4e00 && c <= 0x9fff));
}

struct Window { uint64_t a, b, place; };

// Calls found(i, j) for each window of `length` values that begins at i: j is where the least of the hashes `keys` of
// the runs of `run` values in it begins, the first of equals.
template <class F>
void least(const std::vector<uint64_t>& keys, int64_t windows, int64_t span, F found) {
    int64_t at = -1;
    for (int64_t i = 0; i < windows; i++) {
        if (at < i) {
            at = i;
            for (int64_t j = i + 1; j < i + span; j++) if (keys[j] < keys[at]) at = j;
        } else if (keys[i + span - 1] < keys[at]) {
            at = i + span - 1;
        }
        found(i, at);
    }
}

void run_keys(const uint64_t* values, int64_t count, int64_t run, uint64_t salt, std::vector<uint64_t>& keys) {
    hashing::Rolling hash(hashing::BASE1, run);
    keys.resize(count - run + 1);
    for (int64_t i = 0; i < count; i++) {
        i < run ? hash.push(values[i]) : hash.push(values[i], values[i - run]);
        if (i + 1 >= run) keys[i + 1 - run] = mix(hash.value + salt);
    }
}

}  // namespace

extern "C" {

// Hashes of the words of n texts, one after another, and how many each text has; returns their number. `starts` and
// `stops`, if not null, get the bytes of the text at which each word begins and ends.
__attribute__((visibility("default"))) int64_t words(
    const uint8_t* bytes, const int64_t* offsets, int64_t n, const uint32_t* flags, uint64_t* hashes, int64_t* counts,
    int64_t* starts, int64_t* stops) {
    bool space[128];
    for (int c = 0; c < 128; c++) space[c] = flags[c] & unicode::SPACE;
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *text = bytes + offsets[i], *end = bytes + offsets[i + 1], *p = text, *start = nullptr;
        const int64_t before = total;
        auto word = [&](const uint8_t* from, const uint8_t* to) {
            hashes[total] = hashing::bytes(from, to - from);
            if (starts) { starts[total] = from - text; stops[total] = to - text; }
            total++;
        };
        while (p < end) {
            int size = 1;
            bool is_space, alone = false;
            if (*p < 0x80) {
                is_space = space[*p];
            } else {
                const uint32_t c = unicode::decode(p, size);
                is_space = flags[c] & unicode::SPACE;
                alone = unspaced(c);
            }
            if (is_space || alone) {
                if (start) word(start, p);
                start = nullptr;
                if (alone) word(p, p + size);
            } else if (!start) {
                start = p;
            }
            p += size;
        }
        if (start) word(start, end);
        counts[i] = total - before;
    }
    return total;
}

// The anchors of n documents, whose values lie one after another: document i is values[offsets[i] : offsets[i + 1]].
__attribute__((visibility("default"))) int64_t anchors(
    const uint64_t* values, const int64_t* offsets, int64_t n, const uint64_t* salts, int64_t length, int64_t run,
    uint64_t* out) {
    std::vector<uint64_t> keys;
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t count = offsets[i + 1] - offsets[i];
        if (count < length) continue;
        run_keys(values + offsets[i], count, run, salts[i], keys);
        int64_t last = -1;
        least(keys, count - length + 1, length - run + 1, [&](int64_t, int64_t at) {
            if (at != last) out[total++] = keys[last = at];
        });
    }
    return total;
}

// The windows whose anchor is among `repeated` (sorted, m of them); place is row << 32 | first value.
__attribute__((visibility("default"))) int64_t windows(
    const uint64_t* values, const int64_t* offsets, int64_t n, const uint64_t* salts, const uint32_t* rows,
    int64_t length, int64_t run, const uint64_t* repeated, int64_t m, Window* out) {
    std::vector<uint64_t> keys;
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t count = offsets[i + 1] - offsets[i];
        if (count < length) continue;
        const uint64_t* v = values + offsets[i];
        run_keys(v, count, run, salts[i], keys);
        hashing::Rolling a(hashing::BASE1, length), b(hashing::BASE2, length);
        for (int64_t j = 0; j < length; j++) { a.push(v[j]); b.push(v[j]); }
        int64_t last = -1;
        bool candidate = false;
        least(keys, count - length + 1, length - run + 1, [&](int64_t first, int64_t at) {
            if (first) {
                a.push(v[first + length - 1], v[first - 1]);
                b.push(v[first + length - 1], v[first - 1]);
            }
            if (at != last) candidate = std::binary_search(repeated, repeated + m, keys[last = at]);
            if (candidate)
                out[total++] = {mix(a.value + salts[i]), mix(b.value + salts[i]),
                                static_cast<uint64_t>(rows[i]) << 32 | static_cast<uint64_t>(first)};
        });
    }
    return total;
}

// Sorts windows by hash, then place.
__attribute__((visibility("default"))) void order(Window* windows, int64_t n) {
    std::sort(windows, windows + n, [](const Window& x, const Window& y) {
        return x.a != y.a ? x.a < y.a : x.b != y.b ? x.b < y.b : x.place < y.place;
    });
}

__attribute__((visibility("default"))) void order_keys(uint64_t* keys, int64_t n) { std::sort(keys, keys + n); }

}  // extern "C"
