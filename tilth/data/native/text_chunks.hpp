// Text as chunks (runs that are not white space), each summed up once and remembered: a document's counts are sums of
// its chunks'. `Chunks` is one thread's memory of them, bounded and shared by all documents the thread reads.
#pragma once
#include "text_english.hpp"

namespace chunks {

inline uint64_t word_at(const uint8_t* p, size_t n, const uint8_t* end) {  // the first n ≤ 8 bytes, zeros after them
    uint64_t w = 0;
    if (p + 8 <= end) {
        std::memcpy(&w, p, 8);
        return n < 8 ? w & ((1ull << 8 * n) - 1) : w;
    }
    std::memcpy(&w, p, n);
    return w;
}

inline uint64_t fold(uint64_t a, uint64_t b) {
    __uint128_t m = (__uint128_t)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

// A hash of n bytes; `end` is where the buffer they lie in ends.
inline uint64_t hash(const uint8_t* p, size_t n, const uint8_t* end) {
    uint64_t h = n * english::BASE;
    for (; n > 8; p += 8, n -= 8) h = fold(h ^ word_at(p, 8, end), 0xa0761d6478bd642full);
    return fold(h ^ word_at(p, n, end), 0xe7037ed1a0b428dbull);
}

inline int64_t characters(const uint8_t* p, const uint8_t* end) {
    int64_t n = 0;
    for (; p < end; p++) n += (*p & 0xc0) != 0x80;
    return n;
}

struct Token {
    uint64_t hash;  // english::joined
    uint32_t bytes, chars;
};

// What one chunk adds to the sums of its document and its line.
struct Chunk {
    uint64_t word;  // its first 8 bytes
    uint32_t at, bytes, chars;
    uint32_t token, tokens;  // place of its tokens
    uint32_t words, word_chars, letters;  // tokens that are not all marks, their characters; tokens with a letter
    uint32_t hashes, dots;  // "#"; "..." and "…"
    uint32_t starts[2];  // sentences that begin in it, where none / one had ended before it
    uint8_t ended[2];  // and whether one has ended after it
    uint8_t stops;  // which of english.STOP_WORDS are among its tokens
    uint8_t flags;
};

enum : uint8_t { HINT = 1, BRACE = 2, BRACKET = 4 };  // holds what C4's phrases are made of, "{", "["

class Chunks {
public:
    english::Rules rules;
    const uint32_t* flags;  // unicode.flags()

    Chunks(const english::Rules& r, const uint32_t* flags, const uint64_t* stops, int nstops)
        : rules(r), flags(flags), stops_(stops, stops + nstops) { forget(); }

    // The chunk [p, p + n); it and its tokens hold until the next call. `end`: of the buffer.
    const Chunk& get(const uint8_t* p, size_t n, const uint8_t* end) {
        if (n > LONG) { big_tokens_.clear(); sum(p, n, end, big_, big_tokens_); current_ = big_tokens_.data(); return big_; }
        uint64_t h = hash(p, n, end), w = word_at(p, std::min<size_t>(n, 8), end);
        uint32_t slot = h >> SHIFT;
        for (;; slot = (slot + 1) & (SLOTS - 1)) {
            uint32_t r = slots_[slot].chunk;
            if (!r) break;
            if (slots_[slot].tag != (uint32_t)h) continue;
            const Chunk& c = all_[r - 1];
            if (c.word == w && c.bytes == n && (n <= 8 || !std::memcmp(bytes_.data() + c.at, p, n))) {
                current_ = tokens_.data() + c.token;
                return c;
            }
        }
        if (all_.size() >= SLOTS / 2 || bytes_.size() > MOST_BYTES || tokens_.size() > MOST_TOKENS) {
            forget();
            for (slot = h >> SHIFT; slots_[slot].chunk; slot = (slot + 1) & (SLOTS - 1)) {}
        }
        Chunk c;
        size_t first = tokens_.size();
        sum(p, n, end, c, tokens_);
        c.token = first;
        c.at = bytes_.size();
        bytes_.insert(bytes_.end(), p, p + n);
        all_.push_back(c);
        slots_[slot] = {(uint32_t)h, (uint32_t)all_.size()};
        current_ = tokens_.data() + first;
        return all_.back();
    }

    const Token* tokens() const { return current_; }

    bool space(uint32_t c) const { return rules.is(c, english::SPACE); }

    // The first white space at or after p, or end.
    const uint8_t* chunk_end(const uint8_t* p, const uint8_t* end) const {
        constexpr uint64_t ONES = 0x0101010101010101ull, HIGH = ONES << 7;
        while (p < end) {
            if (p + 8 <= end) {
                uint64_t w;
                std::memcpy(&w, p, 8);
                uint64_t m = (((w - 0x21 * ONES) & ~w) | w) & HIGH;  // bytes up to 0x20 and from 0x80
                if (!m) { p += 8; continue; }
                p += __builtin_ctzll(m) >> 3;
            }
            uint8_t c = *p;
            if (c < 0x80) {
                if (c == ' ' || (c >= 9 && c <= 13) || (c >= 28 && c <= 31)) return p;
                p++;
                continue;
            }
            int size;
            uint32_t u = unicode::decode(p, size);
            if ((c == 0xc2 || (c >= 0xe1 && c <= 0xe3)) && space(u)) return p;
            p += size;
        }
        return end;
    }

private:
    static constexpr uint32_t SLOTS = 1 << 17, SHIFT = 64 - 17, MOST_BYTES = 4 << 20, MOST_TOKENS = 1 << 18;
    static constexpr size_t LONG = 256;
    struct Slot { uint32_t tag, chunk; };  // chunk: its number + 1

    std::vector<uint64_t> stops_;
    std::vector<Slot> slots_;
    std::vector<Chunk> all_;
    std::vector<uint8_t> bytes_;
    std::vector<Token> tokens_, big_tokens_;
    std::vector<english::Span> spans_;
    std::string lower_;
    Chunk big_;
    const Token* current_ = nullptr;

    void forget() {
        slots_.assign(SLOTS, {0, 0});
        all_.clear();
        bytes_.clear();
        tokens_.clear();
    }

    void sum(const uint8_t* p, size_t n, const uint8_t* end, Chunk& c, std::vector<Token>& out) {
        std::memset(&c, 0, sizeof c);
        c.word = word_at(p, std::min<size_t>(n, 8), end);
        c.bytes = n;
        rules.tokenize(p, n, spans_);
        c.chars = rules.cp.size();
        c.tokens = spans_.size();
        bool ended[2] = {false, true};
        for (const english::Span& s : spans_) {
            uint32_t size = rules.at[s.stop] - rules.at[s.start];
            Token t{english::joined.hash(p + rules.at[s.start], size), size, (uint32_t)(s.stop - s.start)};
            out.push_back(t);
            uint32_t any = 0, all = ~0u;
            for (int i = s.start; i < s.stop; i++) {
                any |= rules.classes[rules.cp[i]];
                all &= rules.classes[rules.cp[i]];
            }
            if (!(all & english::MARK)) { c.words++; c.word_chars += t.chars; }
            c.letters += (any & english::LETTER) != 0;
            for (size_t i = 0; i < stops_.size(); i++) c.stops |= (t.hash == stops_[i]) << i;
            bool end_mark = t.chars == 1 && (any & english::SENTENCE);
            for (int k = 0; k < 2; k++) {
                if (end_mark) ended[k] = true;
                else if (ended[k] && !(all & english::PUNCTUATION)) { c.starts[k]++; ended[k] = false; }
            }
        }
        c.ended[0] = ended[0];
        c.ended[1] = ended[1];
        int run = 0;
        lower_.clear();
        for (uint32_t u : rules.cp) {
            run = u == '.' ? run + 1 : 0;
            if (run == 3) { c.dots++; run = 0; }
            c.dots += u == 0x2026;
            c.hashes += u == '#';
            if (u == '{') c.flags |= BRACE;
            if (u == '[') c.flags |= BRACKET;
            lower_.push_back(u == 0x212a ? 'k' : u < 0x80 ? (u - 'A' < 26 ? u + 32 : u) : 1);
        }
        for (const char* hint : {"ipsum", "javascript", "terms", "policy", "cookie"})
            if (lower_.find(hint) != std::string::npos) c.flags |= HINT;
    }
};

}  // namespace chunks
