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

// What one chunk adds to the sums of its document and its line: one line of the processor's cache.
struct alignas(64) Chunk {
    uint64_t word;  // its first 8 bytes
    uint64_t hash;  // of its token, if it is only one
    uint32_t at, bytes, chars;  // place of its bytes, if it is longer than 8
    uint32_t token, tokens;  // place of its tokens, if they are several
    uint32_t words, word_chars, letters;  // tokens that are not all marks, their characters; tokens with a letter
    uint32_t hashes, dots;  // "#"; "..." and "…"
    uint32_t starts;  // sentences that begin in it after a token of it
    uint8_t sentence;  // see Sentence
    uint8_t stops;  // which of text.STOP_WORDS are among its tokens
    uint8_t flags;
};

// How a chunk goes on where none / where one sentence has ended before it: whether one has ended after it, and whether
// one more begins in it.
enum Sentence : uint8_t { ENDED_AFTER_NONE = 1, ENDED_AFTER_ONE = 2, STARTS = 4 };

enum : uint8_t { HINT = 1, BRACE = 2, BRACKET = 4 };  // holds what C4's phrases are made of, "{", "["

// A chunk as it is looked up.
struct Key {
    const uint8_t* p;
    size_t n;
    uint64_t word, hash;
};

class Chunks {
public:
    english::Rules rules;
    const uint32_t* flags;  // unicode.flags()

    Chunks(const english::Rules& r, const uint32_t* flags, const uint64_t* stops, int nstops)
        : rules(r), flags(flags), stops_(stops, stops + nstops) { forget(); }

    // The key of the chunk [p, p + n), n > 0, which will be asked for soon. `end`: of the buffer.
    Key key(const uint8_t* p, size_t n, const uint8_t* end) const {
        Key k{p, n, word_at(p, std::min<size_t>(n, 8), end), n > LONG ? 0 : hash(p, n, end)};
        __builtin_prefetch(&slots_[k.hash >> SHIFT]);
        return k;
    }

    // The chunk of a key; it and its tokens hold until the next call.
    const Chunk& get(const Key& k) {
        const uint8_t* p = k.p;
        const size_t n = k.n;
        const uint64_t w = k.word, h = k.hash;
        if (n > LONG) {
            big_tokens_.clear();
            sum(p, n, w, big_, big_tokens_);
            current_ = big_tokens_.data();
            return big_;
        }
        Chunk* c = &slots_[h >> SHIFT];
        for (; c->bytes; c = next(c))
            if (c->word == w && c->bytes == n && (n <= 8 || !std::memcmp(bytes_.data() + c->at, p, n))) {
                current_ = tokens_.data() + c->token;
                return *c;
            }
        if (used_ >= SLOTS / 8 * 5 || bytes_.size() > MOST_BYTES || tokens_.size() > MOST_TOKENS) {
            forget();
            c = &slots_[h >> SHIFT];
        }
        used_++;
        size_t first = tokens_.size();
        sum(p, n, w, *c, tokens_);
        c->token = first;
        if (n > 8) {
            c->at = bytes_.size();
            bytes_.insert(bytes_.end(), p, p + n);
        }
        if (c->tokens == 1) tokens_.pop_back();
        current_ = tokens_.data() + first;
        return *c;
    }

    // The tokens of the chunk that was got last, if they are several.
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
    static constexpr uint32_t SLOTS = 1 << 16, SHIFT = 64 - 16, MOST_BYTES = 4 << 20, MOST_TOKENS = 1 << 18;
    static constexpr size_t LONG = 256;

    std::vector<uint64_t> stops_;
    std::vector<Chunk> slots_;  // those with bytes are in use
    size_t used_ = 0;
    std::vector<uint8_t> bytes_;
    std::vector<Token> tokens_, big_tokens_;
    std::vector<english::Span> spans_;
    std::string lower_;
    Chunk big_;
    const Token* current_ = nullptr;

    Chunk* next(Chunk* c) { return ++c == slots_.data() + SLOTS ? slots_.data() : c; }

    void forget() {
        slots_.assign(SLOTS, Chunk{});
        used_ = 0;
        bytes_.clear();
        tokens_.clear();
    }

    void sum(const uint8_t* p, size_t n, uint64_t word, Chunk& c, std::vector<Token>& out) {
        c = Chunk{};
        c.word = word;
        c.bytes = n;
        rules.tokenize(p, n, spans_);
        c.chars = rules.cp.size();
        c.tokens = spans_.size();
        bool ended[2] = {false, true};
        uint32_t starts[2] = {0, 0};
        for (const english::Span& s : spans_) {
            uint32_t size = rules.at[s.stop] - rules.at[s.start];
            Token t{english::joined.hash(p + rules.at[s.start], size), size, (uint32_t)(s.stop - s.start)};
            out.push_back(t);
            c.hash = t.hash;
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
                else if (ended[k] && !(all & english::PUNCTUATION)) { starts[k]++; ended[k] = false; }
            }
        }
        c.starts = starts[0];
        c.sentence = ENDED_AFTER_NONE * ended[0] | ENDED_AFTER_ONE * ended[1] | STARTS * (starts[1] > starts[0]);
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
        if (n < 5) return;
        for (const char* hint : {"ipsum", "javascript", "terms", "policy", "cookie"})
            if (lower_.find(hint) != std::string::npos) c.flags |= HINT;
    }
};

}  // namespace chunks
