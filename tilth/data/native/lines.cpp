// RefinedWeb's line corrections: every byte of a text is marked with the rule that removes it, or 0. The plain form,
// which says what is computed, is lines.py.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "unicode.hpp"

namespace {

using unicode::decode;

enum Rule : uint8_t { KEPT, URL, NEWLINES, UPPERCASE, NUMERIC, COUNTER, FEW_WORDS, CART, READ_MORE, SIGN_IN, ENDS, RULES };

struct Limits {
    double uppercase, numeric;
    int32_t urls, newlines, counters, min_words, short_words;  // newlines, short_words: -1 for none
};

const char* COUNTED[] = {"likes", "shares", "comments", "retweets", "reposts", "quotes", "bookmarks", "upvotes",
                         "downvotes", "downloads", "views", "followers"};

struct InUrl {
    bool of[256] = {};
    InUrl() {
        for (int c = 1; c < 128; ++c)
            of[c] = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                    std::strchr("-()@:%_+.~#?&/=", c);
    }
};
const InUrl in_url;

inline bool blank(uint8_t b) { return b == ' ' || (b >= 9 && b <= 13); }

struct Editor {
    const uint32_t *flags, *lower;
    Limits limit;
    std::vector<uint8_t> marks, text;  // `text`: a line without what was marked before
    std::vector<size_t> place;         // of each byte of `text` in the document
    bool moved;                        // whether `text` and `place` are in use
    const uint8_t *begin, *end;
    int64_t* counts;

    size_t of(const uint8_t* p) const { return moved ? place[p - text.data()] : size_t(p - begin); }
    // Marks bytes that are not marked yet.
    void remove(const uint8_t* from, const uint8_t* to, Rule rule) {
        if (!moved) { std::memset(marks.data() + (from - begin), rule, to - from); return; }
        for (const uint8_t* p = from; p < to; ++p) marks[of(p)] = rule;
    }

    bool space(const uint8_t* p, int& size) const {
        if (*p < 0x80) { size = 1; return flags[*p] & unicode::SPACE; }
        return flags[decode(p, size)] & unicode::SPACE;
    }
    // Words by white space that begin with a letter or digit, of what is not marked.
    int64_t words(const uint8_t* p, const uint8_t* to) const {
        int64_t n = 0;
        bool in_word = false;
        int size;
        for (; p < to; p += size) {
            uint32_t c = decode(p, size);
            if (marks[of(p)]) continue;
            uint32_t f = flags[c];
            if (f & unicode::SPACE) { in_word = false; continue; }
            if (!in_word) n += (f & unicode::ALNUM) != 0;
            in_word = true;
        }
        return n;
    }

    void find_urls() {
        const uint8_t* free = begin;
        for (const uint8_t* p = begin; p + 4 <= end; ++p) {
            if (*p != 'h' && *p != 'f' && *p != 'w') continue;
            size_t left = end - p, n = 0;
            if (*p == 'h') {
                if (left >= 7 && !std::memcmp(p, "http://", 7)) n = 7;
                else if (left >= 8 && !std::memcmp(p, "https://", 8)) n = 8;
            } else if (*p == 'f') {
                if (left >= 6 && !std::memcmp(p, "ftp://", 6)) n = 6;
            } else if (!std::memcmp(p, "www.", 4)) {
                n = 4;
            }
            if (!n || p + n >= end || !in_url.of[p[n]]) continue;
            const uint8_t* to = p + n;
            while (to < end && in_url.of[*to]) ++to;
            const uint8_t* from = p;
            while (from > free && p - from < 10 && blank(from[-1])) --from;
            std::memset(marks.data() + (from - begin), URL, to - from);
            ++counts[URL];
            free = to;
            p = to - 1;
        }
    }
    // Newlines beyond the most that may follow each other, of what is left.
    void find_newlines() {
        for (const uint8_t* p = begin; p < end && (p = static_cast<const uint8_t*>(std::memchr(p, '\n', end - p)));) {
            int run = 0;
            for (; p < end && (marks[p - begin] || *p == '\n'); ++p) {
                if (marks[p - begin] || ++run <= limit.newlines) continue;
                marks[p - begin] = NEWLINES;
                if (run == limit.newlines + 1) ++counts[NEWLINES];
            }
        }
    }
    // Copies what is not marked of [p, next) to `text`; returns its end.
    const uint8_t* gather(const uint8_t* p, const uint8_t* next) {
        size_t size = next - p, n = 0, offset = p - begin;
        if (text.size() < size) { text.resize(size); place.resize(size); }
        uint8_t* bytes = text.data();
        size_t* places = place.data();
        const uint8_t* mark = marks.data() + offset;
        for (size_t i = 0; i < size; ++i) {
            bytes[n] = p[i];
            places[n] = offset + i;
            n += !mark[i];
        }
        return bytes + n;
    }

    bool counter(const uint8_t* p, const uint8_t* to) const {
        int size;
        auto at = [&] { return p < to ? decode(p, size) : 0; };
        auto is = [&](uint32_t bit) { return p < to && (flags[at()] & bit); };
        while (p < to && !(flags[at()] & unicode::WORD)) p += size;
        if (!is(unicode::DECIMAL)) return false;
        p += size;
        while (p < to && (*p == ',' || *p == '.' || is(unicode::DECIMAL))) p += *p < 0x80 ? 1 : size;
        if (p < to) {
            uint32_t c = lower[at()];
            if (c == 'k' || c == 'm' || c == 'b') p += size;
        }
        const uint8_t* gap = p;
        while (is(unicode::SPACE)) p += size;
        if (p == gap) return false;
        for (const char* word : COUNTED) {
            const uint8_t* q = p;
            const char* w = word;
            while (*w && q < to) {
                uint32_t c = decode(q, size);
                if (c == 0x130 || lower[c] != uint32_t(*w)) break;
                ++w;
                q += size;
            }
            if (*w) continue;
            while (q < to && !(flags[decode(q, size)] & unicode::WORD)) q += size;
            if (q == to) return true;
        }
        return false;
    }

    std::vector<const uint8_t*> rest;  // what is left of a line
    bool rest_is(size_t at, const char* needle, size_t n) const {
        for (size_t i = 0; i < n; ++i) {
            uint8_t b = *rest[at + i];
            if (b >= 'A' && b <= 'Z') b += 32;
            if (b != uint8_t(needle[i])) return false;
        }
        return true;
    }
    static bool same(const uint8_t* p, const char* needle, size_t n) {  // the needle is in lower case
        for (size_t i = 0; i < n; ++i) {
            uint8_t b = p[i];
            if (b >= 'A' && b <= 'Z') b += 32;
            if (b != uint8_t(needle[i])) return false;
        }
        return true;
    }

    // Words by white space of what is left of a line, and whether anything but white space is.
    int64_t left(const uint8_t* p, const uint8_t* to, bool& empty) const {
        int64_t n = 0;
        bool in_word = false;
        empty = true;
        int size;
        for (; p < to; p += size) {
            bool is = space(p, size);
            if (marks[of(p)]) continue;
            if (is) { in_word = false; continue; }
            empty = false;
            n += !in_word;
            in_word = true;
        }
        return n;
    }

    Rule emptied;  // the rule after which nothing was left of the line, or KEPT
    // Whether it found any. Phrases in lines of few words: "items in cart" anywhere, "read more..." at the end, "sign-in" at the start.
    bool phrases(const uint8_t* p, const uint8_t* to) {
        bool empty, any = false;
        emptied = KEPT;
        for (Rule rule : {CART, READ_MORE, SIGN_IN}) {
            if (any && left(p, to, empty) > limit.short_words) continue;
            bool found = false;
            if (rule == CART) {
                const uint8_t* free = p;
                for (const uint8_t* q = p; q + 13 <= to; ++q)
                    if ((*q | 32) == 'i' && same(q, "items in cart", 13)) {
                        const uint8_t* from = q > free && blank(q[-1]) ? q - 1 : q;
                        remove(from, q + 13, CART);
                        free = q + 13;
                        q += 12;
                        found = true;
                    }
            } else if (any || (rule == SIGN_IN ? (*p | 32) == 's' : to[-1] == '.' || to[-1] == 0xa6)) {
                rest.clear();
                for (const uint8_t* q = p; q < to; ++q) if (!marks[of(q)]) rest.push_back(q);
                size_t m = rest.size();
                if (rule == READ_MORE) {
                    for (const char* tail : {"read more...", "read more\xe2\x80\xa6"}) {
                        size_t n = std::strlen(tail);
                        if (m < n || !rest_is(m - n, tail, n)) continue;
                        if (m > n && blank(*rest[m - n - 1])) ++n;
                        for (size_t i = m - n; i < m; ++i) marks[of(rest[i])] = rule;
                        found = true;
                        break;
                    }
                } else if (m >= 7 && rest_is(0, "sign-in", 7)) {
                    for (size_t i = 0; i < 7 + size_t(m > 7 && blank(*rest[7])); ++i) marks[of(rest[i])] = rule;
                    found = true;
                }
            }
            if (!found) continue;
            any = true;
            ++counts[rule];
            left(p, to, empty);
            if (empty) {  // nothing is left of the line
                for (const uint8_t* q = p; q < to; ++q) if (!marks[of(q)]) marks[of(q)] = rule;
                emptied = rule;
                return true;
            }
        }
        return any;
    }

    void line(const uint8_t* p, const uint8_t* to, const uint8_t* next) {
        if (p == to) return;
        uint32_t chars = 0, upper = 0, digits = 0, n_words = 0, counted = 0;
        bool in_word = false;
        int size;
        for (const uint8_t* q = p; q < to; q += size) {
            uint32_t f = flags[decode(q, size)];
            ++chars;
            upper += (f & unicode::UPPER) != 0;
            digits += (f & unicode::DIGIT) != 0;
            bool is = f & unicode::SPACE;
            bool starts = !is && !in_word;
            n_words += starts;
            counted += starts && (f & unicode::ALNUM);
            in_word = !is;
        }
        counts[RULES] += counted;
        Rule rule = KEPT;
        if (double(upper) / chars > limit.uppercase) rule = UPPERCASE;
        else if (double(digits) / chars > limit.numeric) rule = NUMERIC;
        else if (limit.counters && digits && counter(p, to)) rule = COUNTER;
        else if (int64_t(n_words) < limit.min_words) rule = FEW_WORDS;
        if (rule) {
            ++counts[rule];
            remove(p, next, rule);
            return;
        }
        if (int64_t(n_words) <= limit.short_words && phrases(p, to)) {
            if (emptied && next > to) remove(to, next, emptied);
            counted = uint32_t(words(p, to));
        }
        counts[RULES + 1] += counted;
    }

    void ends(const uint8_t* first, const uint8_t* last) {
        int size;
        for (const uint8_t* p = first; p < last; p += size) {
            bool is = space(p, size);
            if (marks[of(p)]) continue;
            if (!is) break;
            remove(p, p + size, ENDS);
        }
        for (const uint8_t* p = last; p > first;) {
            const uint8_t* q = p;
            do --q; while ((*q & 0xc0) == 0x80);
            if (!marks[of(q)]) {
                if (!space(q, size)) break;
                remove(q, p, ENDS);
            }
            p = q;
        }
    }

    void edit() {
        marks.assign(end - begin, 0);
        if (limit.urls) find_urls();
        if (limit.newlines >= 0) find_newlines();
        bool any = counts[URL] || counts[NEWLINES];
        for (const uint8_t* p = begin; p < end;) {
            const uint8_t* stop = p;
            while ((stop = static_cast<const uint8_t*>(std::memchr(stop, '\n', end - stop))) && marks[stop - begin]) ++stop;
            const uint8_t *to = stop ? stop : end, *next = stop ? stop + 1 : end;
            moved = any && std::any_of(marks.data() + (p - begin), marks.data() + (to - begin), [](uint8_t m) { return m; });
            if (moved) {
                const uint8_t* last = gather(p, next);
                line(text.data(), stop ? last - 1 : last, last);
            } else {
                line(p, to, next);
            }
            p = next;
        }
        moved = false;
        ends(begin, end);
    }
};

}  // namespace

// For each text: counts [n, RULES + 2] (matches by rule, words before and after), its new text behind the others in
// `out` (as large as the texts) with `ends` [n], and the runs of marks as (row, rule, start, stop) in code points.
// Returns how many runs there are, of which `room` are written.
extern "C" __attribute__((visibility("default"))) int64_t refinedweb(
    const uint8_t* bytes, const int64_t* offsets, int64_t n, const uint32_t* flags, const uint32_t* lower,
    const double* ratios, const int32_t* limits, int64_t* counts, uint8_t* out, int64_t* out_ends, int64_t* edits,
    int64_t room) {
    Editor e{};
    e.flags = flags;
    e.lower = lower;
    e.limit = {ratios[0], ratios[1], limits[0], limits[1], limits[2], limits[3], limits[4]};
    int64_t total = 0, written = 0;
    for (int64_t i = 0; i < n; ++i) {
        e.begin = bytes + offsets[i];
        e.end = bytes + offsets[i + 1];
        e.counts = counts + i * (RULES + 2);
        std::memset(e.counts, 0, (RULES + 2) * sizeof(int64_t));
        e.edit();
        size_t size = e.end - e.begin;
        int64_t chars = 0;
        for (size_t b = 0; b < size;) {
            uint8_t mark = e.marks[b];
            size_t from = b;
            int64_t start = chars;
            while (b < size && e.marks[b] == mark) chars += (e.begin[b++] & 0xc0) != 0x80;
            if (!mark) {
                std::memcpy(out + written, e.begin + from, b - from);
                written += b - from;
                continue;
            }
            if (total < room) {
                int64_t* row = edits + 4 * total;
                row[0] = i; row[1] = mark; row[2] = start; row[3] = chars;
            }
            ++total;
        }
        out_ends[i] = written;
    }
    return total;
}
