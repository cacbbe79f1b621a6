// English tokens as spaCy's blank "en" pipeline gives them: what its rules make of one chunk (a run of characters
// that are not white space). The classes of code points and the exceptions come from Python (english.py), whose
// tokenizer is the specification of this one.
#pragma once
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>
#include "unicode.hpp"

namespace english {

// Bits of the class table, in the order of english.CLASSES.
enum : uint32_t {
    ALPHA = 1, LOWER = 2, UPPER = 4, QUOTE = 8, AFFIX = 16, PREFIX = 32, BEFORE_DOT = 64, INFIX = 128, MARK = 256,
    TERMINAL = 512, SENTENCE = 1024, PUNCTUATION = 2048, LETTER = 4096, DECIMAL = 8192, SPACE = 16384, BREAK = 32768,
};

constexpr uint64_t BASE = 0x9e3779b97f4a7c15ull;  // odd, so it has an inverse modulo 2^64

inline uint64_t mix(uint64_t x) {
    x ^= x >> 32; x *= 0xd6e8feb86659fd93ull; x ^= x >> 32; x *= 0xd6e8feb86659fd93ull;
    return x ^ x >> 32;
}

// Hashes of byte strings that can be joined: hash(ab) = hash(a) + BASE^|a| hash(b), modulo 2^64. What is equal has
// equal hashes; that what differs has different ones is taken for granted (64 bits).
struct Joined {
    uint64_t value[256], power[256], inverse[256];
    Joined() {
        uint64_t inv = BASE;
        for (int i = 0; i < 6; i++) inv *= 2 - BASE * inv;  // Newton: doubles the right bits each time
        for (int i = 0; i < 256; i++) {
            value[i] = mix(BASE * (i + 1)) | 1;
            power[i] = i ? power[i - 1] * BASE : 1;
            inverse[i] = i ? inverse[i - 1] * inv : 1;
        }
    }
    uint64_t hash(const uint8_t* p, size_t n) const {
        uint64_t h = 0;
        while (n--) h = h * BASE + value[p[n]];
        return h;
    }
    static uint64_t raise(const uint64_t* table, uint64_t n) {
        if (n < 256) return table[n];
        uint64_t half = raise(table, n / 2);
        return n % 2 ? half * half * table[1] : half * half;
    }
};
inline const Joined joined;

struct Span { int start, stop; };  // of code points

// Hashes, none of them 0, to numbers; made once, then read.
class Numbers {
public:
    Numbers() : slots_(1 << 13) {}  // few of them in use
    int& operator[](uint64_t key) {
        Slot& s = const_cast<Slot&>(find(key));
        if (!s.key) s = {key, -1};
        return s.value;
    }
    int get(uint64_t key) const { return find(key).key ? find(key).value : -1; }

private:
    struct Slot { uint64_t key; int value; };
    std::vector<Slot> slots_;
    const Slot& find(uint64_t key) const {
        uint64_t i = mix(key) >> 51;
        while (slots_[i].key && slots_[i].key != key) i = (i + 1) & (slots_.size() - 1);
        return slots_[i];
    }
};

class Rules {
public:
    const uint16_t* classes;  // [0x110000]

    // `flags`: of unicode.py; `exceptions`: entries that end in \2, each of pieces that end in \1; `units`: code points
    // of each, then 0.
    Rules(const uint16_t* table, const uint32_t* flags, const uint8_t* exceptions, int64_t size, const uint32_t* units,
          int64_t units_size)
        : classes(table), flags_(flags) {
        units_.emplace_back();
        for (int64_t i = 0; i < units_size; i++) {
            if (units[i]) units_.back().push_back(units[i]);
            else units_.emplace_back();
        }
        units_.pop_back();
        std::vector<std::string> texts;
        std::string piece;
        std::vector<int> lengths;
        std::string text;
        for (int64_t i = 0; i < size; i++) {
            if (exceptions[i] == 1) {
                int n = 0;
                for (unsigned char c : piece) n += (c & 0xc0) != 0x80;
                lengths.push_back(n);
                text += piece;
                piece.clear();
            } else if (exceptions[i] == 2) {
                longest_ = std::max(longest_, text.size());
                places_[joined.hash((const uint8_t*)text.data(), text.size())] = exceptions_.size();
                exceptions_.push_back({text, lengths});
                texts.push_back(text);
                lengths.clear();
                text.clear();
            } else {
                piece.push_back(exceptions[i]);
            }
        }
        // An exception that affix rules would take apart is looked for again among the tokens.
        for (const std::string& t : texts) {
            read((const uint8_t*)t.data(), t.size());
            int n = cp.size();
            if (!prefix(0, n) && !suffix(0, n) && !infix(0, 0, n, nullptr)) continue;
            std::vector<Span> tokens;
            split(false, tokens);
            uint64_t key = 0;
            for (const Span& s : tokens) {
                int& whole = phrases_[key = link(key, s)];
                whole = std::max<int>(whole, &s == &tokens.back());
            }
        }
    }

    // Code points of the chunk that was read last, and the byte each begins at (one more than code points).
    std::vector<uint32_t> cp;
    std::vector<uint32_t> at;

    // The tokens of a chunk, as spans of its code points.
    void tokenize(const uint8_t* p, size_t n, std::vector<Span>& out) {
        out.clear();
        read(p, n);
        split(true, out);
        if (out.size() > 1) rejoin(out);
    }

    uint32_t is(uint32_t c, uint32_t bits) const { return classes[c] & bits; }

private:
    const uint32_t* flags_;
    std::vector<std::vector<uint32_t>> units_;
    struct Exception { std::string text; std::vector<int> pieces; };  // characters of each piece
    std::vector<Exception> exceptions_;
    Numbers places_;  // of exceptions, by hash
    Numbers phrases_;  // by hash of their beginnings: 1 of a whole one, 0 of less
    size_t longest_ = 0;
    const uint8_t* bytes_ = nullptr;
    std::vector<Span> front_, back_;

    void read(const uint8_t* p, size_t n) {
        bytes_ = p;
        cp.clear();
        at.clear();
        for (size_t i = 0; i < n;) {
            int size;
            cp.push_back(unicode::decode(p + i, size));
            at.push_back(i);
            i += size;
        }
        at.push_back(n);
    }

    const std::vector<int>* exception(int a, int b) const {
        size_t n = at[b] - at[a];
        if (n - 1 >= longest_) return nullptr;
        int place = places_.get(joined.hash(bytes_ + at[a], n));
        if (place < 0 || exceptions_[place].text.compare(0, n, (const char*)bytes_ + at[a], n)) return nullptr;
        return &exceptions_[place].pieces;
    }

    uint64_t link(uint64_t key, Span s) const {
        return mix(key + joined.hash(bytes_ + at[s.start], at[s.stop] - at[s.start]));
    }

    static bool digit(uint32_t c) { return c - '0' < 10; }
    uint32_t look(int i, int a, int b) const { return i >= a && i < b ? cp[i] : 0; }  // 0 is in no class

    int dots(int i, int b) const {
        int n = 0;
        while (i + n < b && cp[i + n] == '.') n++;
        return n;
    }

    // Length of the prefix of [a, b), 0 if there is none.
    int prefix(int a, int b) const {
        if (a >= b) return 0;
        uint32_t c = cp[a];
        if (is(c, AFFIX | PREFIX)) return 1;
        if (c == '+') return digit(look(a + 1, a, b)) ? 0 : 1;
        if (c == '.') { int n = dots(a, b); return n > 1 ? n : 0; }
        if (c == 'U' && look(a + 1, a, b) == 'S' && look(a + 2, a, b) == '$') return 3;
        if ((c == 'C' || c == 'A') && look(a + 1, a, b) == '$') return 2;
        return 0;
    }

    bool unit(int a, int b) const {  // a unit or a currency, as may follow a digit
        for (const auto& u : units_)
            if ((int)u.size() == b - a && std::equal(u.begin(), u.end(), cp.begin() + a)) return true;
        return false;
    }

    // Length of the suffix of [a, b): the longest that some rule sees.
    int suffix(int a, int b) const {
        if (a >= b) return 0;
        uint32_t c = cp[b - 1], d = look(b - 2, a, b);
        int n = is(c, AFFIX) ? 1 : 0;
        if (c == 0x2026 && d == 0x2026) n = 2;
        if ((c == 's' || c == 'S') && (d == '\'' || d == 0x2019)) n = 2;
        if (c == '+' && digit(d)) n = 1;
        if (c == '.') {
            int run = 1;
            while (b - run > a && cp[b - run - 1] == '.') run++;
            if (run > 1) return run;
            uint32_t e = look(b - 3, a, b);
            if (is(d, BEFORE_DOT) || digit(d) || (is(d, UPPER) && is(e, UPPER))) return 1;
            if (e == 0xb0 && d < 0x80 && d && std::strchr("FfCcKk", d)) return 1;
            return 0;
        }
        for (int size = 5; size > n; size--)
            if (digit(look(b - size - 1, a, b)) && unit(b - size, b)) return size;
        return n;
    }

    // Length of the infix at i of [a, b), 0 if there is none; with `next`, the first infix at or after i, put there.
    int infix(int i, int a, int b, int* next) const {
        for (; i < b; i++) {
            int n = infix_at(i, a, b);
            if (n) {
                if (next) *next = i;
                return n;
            }
        }
        return 0;
    }

    int infix_at(int i, int a, int b) const {
        uint32_t c = cp[i];
        if (is(c, INFIX)) return 1;
        uint32_t before = look(i - 1, a, b), after = look(i + 1, a, b);
        switch (c) {
            case '.':
                if (after == '.') return dots(i, b);
                return is(before, LOWER | QUOTE) && is(after, UPPER | QUOTE);
            case ',': return is(before, ALPHA) && is(after, ALPHA);
            case '+': case '*': case '^': return digit(before) && (digit(after) || after == '-');
            case ':': case '<': case '>': case '=': case '/': return (is(before, ALPHA) || digit(before)) && is(after, ALPHA);
            case '-':
                if (digit(before) && (digit(after) || after == '-')) return 1;
                break;
            case '~': case 0x2013: case 0x2014: break;
            default: return 0;
        }
        if (!is(before, ALPHA) && !digit(before)) return 0;
        int most = c == '-' ? 3 : c == 0x2014 ? 2 : 1;
        for (int n = 1; n <= most && (n == 1 || look(i + n - 1, a, b) == c); n++)
            if (is(look(i + n, a, b), ALPHA)) return n;
        return 0;
    }

    void split(bool special, std::vector<Span>& out) {
        int a = 0, b = cp.size(), before = -1;
        front_.clear();
        back_.clear();
        while (a < b && b - a != before) {
            if (special && exception(a, b)) break;
            before = b - a;
            int pre = prefix(a, b);
            if (pre && a + pre < b && special && exception(a + pre, b)) {
                front_.push_back({a, a + pre});
                a += pre;
                break;
            }
            int suf = suffix(a + pre, b);
            if (suf && b - suf > a && special && exception(a, b - suf)) {
                back_.push_back({b - suf, b});
                b -= suf;
                break;
            }
            if (pre) front_.push_back({a, a + pre});
            if (suf) back_.push_back({b - suf, b});
            a += pre;
            b -= suf;
        }
        out.insert(out.end(), front_.begin(), front_.end());
        if (a < b) inside(a, b, special, out);
        out.insert(out.end(), back_.rbegin(), back_.rend());
    }

    void inside(int a, int b, bool special, std::vector<Span>& out) {
        if (const std::vector<int>* pieces = special ? exception(a, b) : nullptr) {
            for (int n : *pieces) { out.push_back({a, a + n}); a += n; }
            return;
        }
        if (url(a, b)) { out.push_back({a, b}); return; }
        int start = a, next = a;
        for (int i = a, n; (n = infix(i, a, b, &next)); i = next + n) {
            if (next == a) continue;  // one that stands first stays with what follows
            if (next != start) out.push_back({start, next});
            out.push_back({next, next + n});
            start = next + n;
        }
        if (start < b) out.push_back({start, b});
    }

    // Exceptions that the affix rules took apart: the longest first, the earlier of equally long ones.
    void rejoin(std::vector<Span>& tokens) {
        std::vector<Span> found;  // of tokens
        for (int i = 0; i < (int)tokens.size(); i++) {
            uint64_t key = 0;
            for (int j = i; j < (int)tokens.size(); j++) {
                int whole = phrases_.get(key = link(key, tokens[j]));
                if (whole < 0) break;
                if (whole) found.push_back({i, j + 1});
            }
        }
        if (found.empty()) return;
        std::stable_sort(found.begin(), found.end(), [](Span x, Span y) { return x.stop - x.start > y.stop - y.start; });
        std::vector<char> seen(tokens.size());
        std::vector<int> stop(tokens.size());
        for (Span s : found) {
            if (!seen[s.start] && !seen[s.stop - 1]) stop[s.start] = s.stop;
            std::fill(seen.begin() + s.start, seen.begin() + s.stop, 1);
        }
        std::vector<Span> out;
        for (int i = 0; i < (int)tokens.size();) {
            if (!stop[i]) { out.push_back(tokens[i++]); continue; }
            int a = tokens[i].start;
            for (int n : *exception(a, tokens[stop[i] - 1].stop)) { out.push_back({a, a + n}); a += n; }
            i = stop[i];
        }
        tokens.swap(out);
    }

    // Web addresses, which stay whole: [scheme://][user@](IPv4 not of a private network | domain)[:port][/?#…].
    bool url(int a, int b) const {
        bool dot = false;
        for (int i = a; i < b && !dot; i++) dot = cp[i] == '.';
        if (!dot) return false;
        if (host(a, b)) return true;
        int i = a;
        while (i < b && (cp[i] == '+' || cp[i] == '-' || cp[i] == '.' || word(cp[i]))) i++;
        if (i - a >= 2 && look(i, a, b) == ':' && look(i + 1, a, b) == '/' && look(i + 2, a, b) == '/' && host(i + 3, b))
            return true;
        for (i = a + 1; i < b; i++)
            if (cp[i] == '@' && host(i + 1, b)) return true;
        return false;
    }

    bool word(uint32_t c) const { return flags_[c] & unicode::WORD; }
    static bool label(uint32_t c) { return (c | 32) - 'a' < 26 || digit(c) || (c >= 0xa1 && c <= 0xffff); }

    bool tail(int i, int b) const {  // [:port][/?#…] to the end
        if (i < b && cp[i] == ':') {
            int n = 0;
            while (i + 1 + n < b && is(cp[i + 1 + n], DECIMAL)) n++;
            if (n < 2 || n > 5) return false;
            i += 1 + n;
        }
        return i == b || cp[i] == '/' || cp[i] == '?' || cp[i] == '#';
    }

    bool host(int i, int b) const {
        if (i >= b) return false;
        if (is(cp[i], DECIMAL) && address(i, b)) return true;
        for (bool first = true;; first = false) {
            if (!first) {
                int n = 0;
                while (i + n < b && is(cp[i + n], LOWER)) n++;
                if (n >= 2 && n <= 63 && tail(i + n, b)) return true;
            }
            int n = 0;
            while (i + n < b && (label(cp[i + n]) || cp[i + n] == '_' || cp[i + n] == '-')) n++;
            if (n < 1 || n > 64 || i + n >= b || cp[i + n] != '.' || !label(cp[i]) || !label(cp[i + n - 1])) return false;
            i += n + 1;
        }
    }

    bool address(int i, int b) const {
        uint32_t part[4][3];
        int size[4];
        for (int k = 0; k < 4; k++) {
            size[k] = 0;
            while (i < b && is(cp[i], DECIMAL)) {
                if (size[k] == 3) return false;
                part[k][size[k]++] = cp[i++];
            }
            if (!size[k] || (k < 3 && (i >= b || cp[i++] != '.'))) return false;
        }
        auto number = [&](int k) {  // -1 where a digit is not ASCII
            int v = 0;
            for (int j = 0; j < size[k]; j++) v = digit(part[k][j]) && v >= 0 ? v * 10 + (int)(part[k][j] - '0') : -1;
            return v;
        };
        auto is_number = [&](int k, int v, int digits) { return size[k] == digits && number(k) == v; };
        if (is_number(0, 10, 2) || is_number(0, 127, 3)) return false;
        if ((is_number(0, 169, 3) && is_number(1, 254, 3)) || (is_number(0, 192, 3) && is_number(1, 168, 3))) return false;
        if (is_number(0, 172, 3) && size[1] == 2) {
            uint32_t t = part[1][0], u = part[1][1];
            if ((t == '1' && u >= '6' && u <= '9') || t == '2' || (t == '3' && (u == '0' || u == '1'))) return false;
        }
        auto octet = [&](int k, bool zero, uint32_t high) {  // ≤ 2dd with dd limited; zero: leading zeros are fine
            uint32_t x = part[k][0], y = part[k][1], z = part[k][2];
            if (size[k] < 3) return zero || (x >= '1' && x <= '9');
            if (x == '1') return true;
            if (x != '2') return false;
            if (high == 223) return y == '0' || y == '1' || (y == '2' && z >= '0' && z <= '3');
            return (y >= '0' && y <= '4') || (y == '5' && z >= '0' && z <= '0' + high % 10);
        };
        return octet(0, false, 223) && octet(1, true, 255) && octet(2, true, 255) && octet(3, false, 254) && tail(i, b);
    }
};

}  // namespace english
