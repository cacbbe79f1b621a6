// MinHash signatures and band keys straight from UTF-8 texts. The plain form, which says what is computed, is minhash.py.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "text_english.hpp"
#include "unicode.hpp"
#include "xxhash.hpp"

namespace {

enum Kind : uint32_t { ONE, SPACE, DIGIT, SEPARATOR, MARK, MARK_STARTER, SEVERAL, SIGMA, COMBINING };
enum Sigma : uint8_t { CASED = 1, IGNORABLE = 2 };

struct Tables {
    const uint32_t* what;      // [0x110000] kind << 24 | code point to write, or place in `pool`
    const uint32_t* pool;      // length, then so many code points
    const uint8_t* combining;  // [0x110000] canonical combining class
    const uint8_t* sigma;      // [0x110000] what decides whether a sigma ends its word
};

// Writes normalised text: words with one space between them. `buffer` must have room for 4 bytes per byte of the text.
struct Writer {
    const Tables& t;
    uint8_t *const begin, *out;
    bool gap = false;
    // Combining characters that were written since the last starter, for canonical order.
    std::vector<std::pair<uint8_t, uint32_t>> run;

    Writer(const Tables& tables, uint8_t* buffer) : t(tables), begin(buffer), out(buffer) {}

    void open() {
        *out = ' ';
        out += gap && out > begin;
        gap = false;
    }
    void put(uint32_t c) {
        open();
        out += unicode::encode(c, out);
    }
    void starter(uint32_t c) {
        if (!run.empty()) run.clear();
        put(c);
    }
    void combining(uint32_t c) {
        uint8_t rank = t.combining[c];
        open();
        size_t at = run.size();
        while (at && run[at - 1].first > rank) --at;
        run.insert(run.begin() + at, {rank, c});
        if (at + 1 == run.size()) return put(c);
        uint8_t bytes[4];
        for (auto& r : run) out -= unicode::encode(r.second, bytes);
        out += unicode::encode(c, bytes);
        for (auto& r : run) put(r.second);
    }
    void any(uint32_t c) { t.combining[c] ? combining(c) : starter(c); }
    void space() {
        gap = true;
        if (!run.empty()) run.clear();
    }
};

// Whether the capital sigma of two bytes at p ends a word, as str.lower decides it.
bool ends_word(const Tables& t, const uint8_t* begin, const uint8_t* p, const uint8_t* end) {
    int size;
    bool before = false;
    for (const uint8_t* q = p; q > begin;) {
        do --q; while ((*q & 0xc0) == 0x80);
        uint8_t s = t.sigma[unicode::decode(q, size)];
        if (s & IGNORABLE) continue;
        before = s & CASED;
        break;
    }
    if (!before) return false;
    for (const uint8_t* q = p + 2; q < end; q += size) {
        uint8_t s = t.sigma[unicode::decode(q, size)];
        if (s & IGNORABLE) continue;
        return !(s & CASED);
    }
    return true;
}

// What an ASCII letter becomes; 1 for an ASCII character that becomes a space, 0 for what needs more thought.
struct Plain {
    uint8_t to[256] = {};
    explicit Plain(const Tables& t) {
        for (int c = 0; c < 128; ++c) {
            uint32_t kind = t.what[c] >> 24;
            to[c] = kind == ONE ? t.what[c] & 0x7f : kind == SPACE ? 1 : 0;
        }
    }
};

void normalise(const Tables& t, const Plain& plain, const uint8_t* begin, const uint8_t* end, std::vector<uint8_t>& out) {
    out.resize(4 * (end - begin) + 16);
    Writer w(t, out.data());
    int size;
    for (const uint8_t* p = begin; p < end; p += size) {
        uint8_t to = plain.to[*p];
        if (to > 1) {
            if (!w.run.empty()) w.run.clear();
            w.open();
            uint8_t* o = w.out;
            do {
                *o++ = to;
                to = ++p < end ? plain.to[*p] : 0;
            } while (to > 1);
            w.out = o;
            if (p == end) break;
        }
        if (to == 1) {
            w.space();
            size = 1;
            continue;
        }
        uint32_t c = unicode::decode(p, size), what = t.what[c], value = what & 0xffffff;
        switch (what >> 24) {
            case ONE:
                w.starter(value);
                break;
            case SPACE:
                w.space();
                break;
            case DIGIT: {  // a number, with at most one separator inside: one 0
                const uint8_t* q = p;
                auto digits = [&] {
                    const uint8_t* first = q;
                    int s;
                    while (q < end && t.what[unicode::decode(q, s)] >> 24 == DIGIT) q += s;
                    return q > first;
                };
                digits();
                const uint8_t* whole = q;
                int s;
                if (q < end && t.what[unicode::decode(q, s)] >> 24 == SEPARATOR) {
                    q += s;
                    if (!digits()) q = whole;
                }
                w.starter('0');
                size = int(q - p);
                break;
            }
            case SEPARATOR:
                if (value == ' ') w.space(); else w.starter(value);
                break;
            case MARK:
                break;
            case MARK_STARTER:
                w.run.clear();
                break;
            case SEVERAL:
                for (uint32_t i = 1; i <= t.pool[value]; ++i) w.any(t.pool[value + i]);
                break;
            case SIGMA:
                w.starter(ends_word(t, begin, p, end) ? 0x3c2 : 0x3c3);
                break;
            case COMBINING:
                w.combining(value);
                break;
        }
    }
    out.resize(w.out - out.data());
}

// Puts spaces between the tokens that spaCy's English rules cut words into. Most words are one token and are remembered
// as such.
class English {
public:
    explicit English(const english::Rules& rules) : rules_(rules), whole_(PLACES) {}

    void part(std::vector<uint8_t>& text) {
        parted_.clear();
        const uint8_t *done = text.data(), *end = done + text.size();
        for (const uint8_t* p = done; p < end;) {
            const void* gap = std::memchr(p, ' ', end - p);
            const uint8_t* stop = gap ? static_cast<const uint8_t*>(gap) : end;
            const uint64_t h = xxhash::hash64(p, stop - p);
            uint64_t& known = whole_[h % PLACES];
            if (known != h) {
                rules_.tokenize(p, stop - p, tokens_);
                if (tokens_.size() == 1) {
                    known = h;
                } else {
                    parted_.insert(parted_.end(), done, p);
                    for (size_t i = 0; i < tokens_.size(); ++i) {
                        if (i) parted_.push_back(' ');
                        parted_.insert(parted_.end(), p + rules_.at[tokens_[i].start], p + rules_.at[tokens_[i].stop]);
                    }
                    done = stop;
                }
            }
            p = stop + 1;
        }
        if (done == text.data()) return;
        parted_.insert(parted_.end(), done, end);
        text.swap(parted_);
    }

private:
    static constexpr size_t PLACES = 1 << 14;
    english::Rules rules_;  // a copy, as it has a memory that threads must not share
    std::vector<uint64_t> whole_;
    std::vector<english::Span> tokens_;
    std::vector<uint8_t> parted_;
};

// Where each shingle of normalised text begins and ends: n words, or n characters.
void shingles(const std::vector<uint8_t>& text, int n, bool characters, std::vector<uint32_t>& starts,
              std::vector<uint32_t>& stops) {
    starts.clear();
    stops.clear();
    uint32_t size = text.size();
    if (characters) {
        for (uint32_t i = 0; i < size; ++i)
            if ((text[i] & 0xc0) != 0x80) starts.push_back(i);
        stops.assign(starts.begin() + std::min<size_t>(1, starts.size()), starts.end());
        if (size) stops.push_back(size);
    } else {
        for (uint32_t i = 0; i < size;) {
            const void* gap = std::memchr(text.data() + i, ' ', size - i);
            uint32_t stop = gap ? static_cast<const uint8_t*>(gap) - text.data() : size;
            starts.push_back(i);
            stops.push_back(stop);
            i = stop + 1;
        }
    }
    size_t count = starts.size() < size_t(n) ? 0 : starts.size() - n + 1;
    stops.erase(stops.begin(), stops.begin() + (starts.size() - count));
    starts.resize(count);
}

constexpr uint64_t MERSENNE = (1ull << 61) - 1;

// Least value of (h a + b mod 2^64) mod 2^61 - 1 over `count` hashes, for WIDE functions at a time, so that their
// parameters and minima stay in registers. Values are below 2^62, so comparing them as signed is right and cheaper.
#ifdef __AVX2__
constexpr int WIDE = 16;
using Four = uint64_t __attribute__((vector_size(32)));
using SignedFour = int64_t __attribute__((vector_size(32)));

inline Four low_product(Four a, Four b) { return Four(_mm256_mul_epu32(__m256i(a), __m256i(b))); }

inline void minima(const uint64_t* hashes, size_t count, const uint64_t* a, const uint64_t* b, int64_t* least) {
    constexpr int N = WIDE / 4;
    const Four prime = Four{} + MERSENNE;
    const SignedFour last = SignedFour(prime - 1);
    Four x[N], high[N], y[N];
    SignedFour m[N], over{};
    for (int j = 0; j < N; ++j) {
        std::memcpy(&x[j], a + 4 * j, 32);
        std::memcpy(&y[j], b + 4 * j, 32);
        std::memcpy(&m[j], least + 4 * j, 32);
        high[j] = x[j] >> 32;
    }
    for (size_t i = 0; i < count; ++i) {
        const Four h = Four{} + hashes[i], top = h >> 32;
        for (int j = 0; j < N; ++j) {
            Four v = low_product(h, x[j]) + y[j] + ((low_product(h, high[j]) + low_product(top, x[j])) << 32);
            SignedFour f = SignedFour((v & prime) + (v >> 61));  // at most the prime + 7
            over |= f > last;
            m[j] = f < m[j] ? f : m[j];
        }
    }
    // Once in 2^58 values the prime must still be taken off: so seldom that the block is then simply done again.
    if (over[0] | over[1] | over[2] | over[3]) {
        for (int j = 0; j < WIDE; ++j)
            for (size_t i = 0; i < count; ++i) least[j] = std::min(least[j], int64_t((hashes[i] * a[j] + b[j]) % MERSENNE));
        return;
    }
    for (int j = 0; j < N; ++j) std::memcpy(least + 4 * j, &m[j], 32);
}
#else
constexpr int WIDE = 8;

inline void minima(const uint64_t* hashes, size_t count, const uint64_t* a, const uint64_t* b, int64_t* least) {
    int64_t m[WIDE];
    uint64_t x[WIDE], y[WIDE];
    for (int j = 0; j < WIDE; ++j) { m[j] = least[j]; x[j] = a[j]; y[j] = b[j]; }
    for (size_t i = 0; i < count; ++i) {
        uint64_t h = hashes[i];
        for (int j = 0; j < WIDE; ++j) {
            uint64_t v = h * x[j] + y[j];
            int64_t f = int64_t(v & MERSENNE) + int64_t(v >> 61);
            f = (f + ((f + 1) >> 61)) & int64_t(MERSENNE);
            m[j] = f < m[j] ? f : m[j];
        }
    }
    for (int j = 0; j < WIDE; ++j) least[j] = m[j];
}
#endif

}  // namespace

extern "C" {

// The rules of text_english.hpp from tables that must live as long.
__attribute__((visibility("default"))) void* english_rules(const uint16_t* classes, const uint32_t* flags,
                                                           const uint8_t* exceptions, int64_t size,
                                                           const uint32_t* units, int64_t units_size) {
    return new english::Rules(classes, flags, exceptions, size, units, units_size);
}

// texts [n] -> counts int64 [n] shingles of each; signatures uint64 [n, width] (or null), of which the first bands * rows
// columns count; keys uint64 [n, bands]; brief uint16 [n, shown]. Rows of texts without a shingle stay as they
// were. `width` is bands * rows rounded up to 16; a and b uint64 [width]. `rules`:
// of english_rules, or null where spaces alone part words.
__attribute__((visibility("default"))) void minhash(
    const uint8_t* bytes, const int64_t* offsets, int64_t n, const uint32_t* what, const uint32_t* pool,
    const uint8_t* combining, const uint8_t* sigma, const void* rules, int ngram, int characters, int bands, int rows, int shown, const uint64_t* a,
    const uint64_t* b, int64_t* counts, uint64_t* signatures, uint64_t* keys, uint16_t* brief) {
    const Tables tables{what, pool, combining, sigma};
    const Plain plain(tables);
    const int functions = bands * rows, width = (functions + 15) / 16 * 16;
    constexpr size_t BLOCK = 512, RECENT = 4096;
    std::vector<uint8_t> text;
    std::vector<uint32_t> starts, stops;
    std::unique_ptr<English> english;
    if (rules) english = std::make_unique<English>(*static_cast<const english::Rules*>(rules));
    std::vector<uint64_t> hashes, recent(RECENT);
    std::vector<int64_t> least(width);
    for (int64_t i = 0; i < n; ++i) {
        normalise(tables, plain, bytes + offsets[i], bytes + offsets[i + 1], text);
        if (english) english->part(text);
        shingles(text, ngram, characters, starts, stops);
        counts[i] = starts.size();
        if (starts.empty()) continue;
        hashes.clear();
        std::fill(recent.begin(), recent.end(), 0);
        recent[0] = 1;  // so that no place holds what would belong there
        for (size_t k = 0; k < starts.size(); ++k) {
            uint64_t h = xxhash::hash64(text.data() + starts[k], stops[k] - starts[k]);
            uint64_t& place = recent[h % RECENT];
            if (place == h) continue;  // repeated shingles change no minimum
            place = h;
            hashes.push_back(h);
        }
        std::fill(least.begin(), least.end(), int64_t(MERSENNE));
        for (size_t first = 0; first < hashes.size(); first += BLOCK)
            for (int j = 0; j < width; j += WIDE)
                minima(hashes.data() + first, std::min(BLOCK, hashes.size() - first), a + j, b + j, least.data() + j);
        const uint64_t* values = reinterpret_cast<const uint64_t*>(least.data());
        if (signatures) std::copy(values, values + width, signatures + i * width);
        for (int band = 0; band < bands; ++band)
            keys[i * bands + band] =
                xxhash::hash64(reinterpret_cast<const uint8_t*>(values + band * rows), 8 * rows, band);
        for (int j = 0; j < shown; ++j) brief[i * shown + j] = uint16_t(values[j]);
    }
}

// Normalised texts: writes at most `room` bytes and returns how many there are; ends int64 [n].
__attribute__((visibility("default"))) int64_t normalised(
    const uint8_t* bytes, const int64_t* offsets, int64_t n, const uint32_t* what, const uint32_t* pool,
    const uint8_t* combining, const uint8_t* sigma, const void* rules, uint8_t* out, int64_t room, int64_t* ends) {
    const Tables tables{what, pool, combining, sigma};
    const Plain plain(tables);
    std::vector<uint8_t> text;
    std::unique_ptr<English> english;
    if (rules) english = std::make_unique<English>(*static_cast<const english::Rules*>(rules));
    int64_t total = 0;
    for (int64_t i = 0; i < n; ++i) {
        normalise(tables, plain, bytes + offsets[i], bytes + offsets[i + 1], text);
        if (english) english->part(text);
        if (total + int64_t(text.size()) <= room) std::memcpy(out + total, text.data(), text.size());
        total += text.size();
        ends[i] = total;
    }
    return total;
}

// xxHash64 of each text into out uint64 [n].
__attribute__((visibility("default"))) void hashes(const uint8_t* bytes, const int64_t* offsets, int64_t n,
                                                   uint64_t seed, uint64_t* out) {
    for (int64_t i = 0; i < n; ++i) out[i] = xxhash::hash64(bytes + offsets[i], offsets[i + 1] - offsets[i], seed);
}
}
