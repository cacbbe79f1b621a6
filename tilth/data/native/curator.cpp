// NeMo Curator's heuristics in one pass over lines and words. The plain form, which says what is computed, is
// curator.py; columns are written in its order.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "ids.hpp"
#include "unicode.hpp"

namespace {

using namespace ids;
using unicode::decode;

enum Column {
    NON_ALNUM, SYMBOLS, NUMBERS, URLS, SPACES, PARENTHESES, BOILERPLATE, UNIQUE_LINES, UNIQUE_PARAGRAPHS,
    UNIQUE_LINE_CHARS, UNIQUE_PARAGRAPH_CHARS, WORDS, NO_END_MARK, ALPHA_WORDS, COMMON_WORDS, MEAN_WORD, LONGEST_WORD,
    ELLIPSIS, TOP2, TOP3, TOP4, DUPE5, DUPE6, DUPE7, DUPE8, DUPE9, DUPE10, BULLETS, COLUMNS
};

const char* ANCHORS[] = {"cookie", "privacy ", "terms of use"};
const char* PHRASES[] = {
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "privacy overview", "use of cookies",
    "use cookies", "privacy & cookies policy", "privacy and cookies policy",
    "necessary cookies are absolutely essential for the website to function properly",
    "any cookies that may not be particularly necessary for the website to function",
    "without changing your cookie settings, you agree to this use",
};
const char* COMMON[] = {"the", "be", "to", "of", "and", "that", "have", "with"};
const char* MARKS[] = {"...", "\xe2\x80\xa6", "[...]", "(...)", "[\xe2\x80\xa6]", "-\xc2\xbb"};

bool is(const uint8_t* p, const uint8_t* q, const char* text) {
    size_t n = std::strlen(text);
    return size_t(q - p) == n && !std::memcmp(p, text, n);
}
bool ends(const uint8_t* p, const uint8_t* q, const char* text) {
    size_t n = std::strlen(text);
    return size_t(q - p) >= n && !std::memcmp(q - n, text, n);
}
const uint8_t* find(const uint8_t* p, const uint8_t* q, const void* needle, size_t n) {
    return static_cast<const uint8_t*>(memmem(p, q - p, needle, n));
}
bool bullet(uint32_t c) {
    for (uint32_t b : {0x2022, 0x2023, 0x2043, 0x204c, 0x204d, 0x2219, 0x25cb, 0x25cf, 0x25d8, 0x25e6, 0x29be, 0x29bf})
        if (c == b) return true;
    return false;
}

struct Ascii {
    bool counted[256] = {}, url[256] = {};
    Ascii() {
        for (int c = 0; c < 128; ++c) {
            counted[c] = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '\n' ||
                         c == '?' || c == '!' || c == ',' || c == '.';
            url[c] = c == '!' || (c >= 0x24 && c <= 0x5f) || (c >= 'a' && c <= 'z');
        }
    }
};
const Ascii ascii;

struct Judge {
    const uint32_t* flags;
    Words words, lines, paragraphs;
    Pairs pairs;
    std::vector<uint8_t> text, low, joined;
    std::vector<uint32_t> tokens, grams, starts;
    std::vector<uint8_t> seen;

    int64_t chars_of(const uint8_t* p, const uint8_t* q) const {
        int64_t n = 0;
        for (; p < q; ++p) n += (*p & 0xc0) != 0x80;
        return n;
    }
    bool boilerplate(const uint8_t* p, const uint8_t* q) const {
        for (const char* phrase : PHRASES) if (find(p, q, phrase, std::strlen(phrase))) return true;
        return false;
    }

    void repetition(double* out, const uint8_t* begin, const uint8_t* end, double chars) {
        size_t n_words = tokens.size();
        for (int n = 2; n <= 10; ++n) {
            out[n <= 4 ? TOP2 + n - 2 : DUPE5 + n - 5] = n_words < size_t(n) ? 1.0 : 0.0;
        }
        grams = tokens;
        starts.resize(n_words);
        for (size_t i = 0; i < n_words; ++i) starts[i] = uint32_t(i);
        for (int n = 2; n <= 10 && n_words >= size_t(n); ++n) {
            size_t m = starts.size(), k = 0;
            pairs.clear(m);
            for (size_t i = 0; i + 1 < m; ++i) {
                if (starts[i + 1] != starts[i] + 1) continue;
                uint32_t id = pairs.add(grams[i], grams[i + 1]);
                starts[k] = starts[i];
                grams[k++] = id;
            }
            if (n <= 4) {  // the first of the most frequent; where none is repeated, the first of all
                uint32_t best = 1, at = 0, first = 0;
                for (uint32_t id = 0; id < pairs.counts.size(); ++id)
                    if (pairs.counts[id] > best) { best = pairs.counts[id]; at = id; }
                if (best > 1) {
                    size_t i = 0;
                    while (grams[i] != at) ++i;
                    first = starts[i];
                }
                joined.clear();
                for (int j = 0; j < n; ++j) {
                    const Words::Word& w = words.all[tokens[first + j]];
                    if (j) joined.push_back(' ');
                    joined.insert(joined.end(), words.bytes.begin() + w.at, words.bytes.begin() + w.at + w.size);
                }
                int64_t found = 0;
                for (const uint8_t* p = begin; (p = find(p, end, joined.data(), joined.size())); p += joined.size()) ++found;
                out[TOP2 + n - 2] = double(found * chars_of(joined.data(), joined.data() + joined.size())) / chars;
            } else {
                seen.assign(pairs.counts.size(), 0);
                int64_t taken = 0, last = -1;
                for (size_t i = 0; i < k; ++i) {
                    if (!seen[grams[i]]) { seen[grams[i]] = 1; continue; }
                    int64_t overlap = last < 0 ? 0 : std::max<int64_t>(0, n - (int64_t(starts[i]) - last));
                    for (int64_t j = overlap; j < n; ++j) taken += words.all[tokens[starts[i] + j]].chars;
                    taken += std::min<int64_t>(n - overlap, n - 1);
                    last = starts[i];
                }
                out[DUPE5 + n - 5] = double(taken) / chars;
            }
            size_t kept = 0;
            for (size_t i = 0; i < k; ++i) {
                if (pairs.counts[grams[i]] < 2) continue;
                starts[kept] = starts[i];
                grams[kept++] = grams[i];
            }
            starts.resize(kept);
            grams.resize(kept);
        }
    }

    void judge(const uint8_t* given, size_t size, double* out) {
        const double nan = std::nan("");
        text.resize(size + SLACK);
        low.resize(size + SLACK);
        if (size) std::memcpy(text.data(), given, size);
        for (size_t i = 0; i < size; ++i) low[i] = uint8_t(given[i] + (given[i] >= 'A' && given[i] <= 'Z' ? 32 : 0));
        const uint8_t *begin = text.data(), *end = begin + size;
        words.clear(size / 24 + 16);
        tokens.clear();
        int64_t chars = 0, counted = 0, digits = 0, spaces = 0, parentheses = 0, symbols = 0, alpha_words = 0, common = 0;
        int64_t word_chars = 0, longest = 0;
        int s = 1;
        for (const uint8_t* p = begin; p < end;) {
            const uint8_t* word = p;
            int64_t n = 0;
            bool alpha = false;
            uint32_t f = 0, c = 0;
            while (p < end) {
                c = decode(p, s);
                f = flags[c];
                if (f & unicode::SPACE) break;
                ++n;
                p += s;
                alpha |= (f & unicode::ALPHA) != 0;
                digits += (f & unicode::DECIMAL) != 0;
                if (c < 0x80) {
                    counted += ascii.counted[c];
                    spaces += c == 8;
                    parentheses += c == '(' || c == ')' || c == '[' || c == ']' || c == '{' || c == '}';
                } else {
                    parentheses += c == 0x27e8 || c == 0x27e9;
                }
            }
            if (n) {
                tokens.push_back(words.add(word, uint32_t(p - word), uint32_t(n)));
                chars += n;
                word_chars += n;
                longest = std::max(longest, n);
                alpha_words += alpha;
                if (p - word <= 4) {
                    for (const char* w : COMMON) common += is(word, p, w);
                }
                if (p - word <= 5) {
                    symbols += is(word, p, "#");
                    for (const char* mark : MARKS) symbols += is(word, p, mark);
                }
            }
            if (p < end) {
                ++chars;
                counted += c == '\n';
                spaces += c == ' ' || c == '\t' || c == '\n' || c == '\r';
                p += s;
            }
        }
        int64_t url_chars = 0;
        for (const uint8_t* p = begin; (p = find(p, end, "http", 4));) {
            const uint8_t* q = p + 4;
            if (q < end && *q == 's') ++q;
            if (end - q < 4 || std::memcmp(q, "://", 3) || !ascii.url[q[3]]) { p += 4; continue; }
            q += 3;
            while (q < end && ascii.url[*q]) ++q;
            url_chars += q - p;
            p = q;
        }
        // Lines, which Curator calls sentences.
        lines.clear(16);
        int64_t n_lines = 0, line_chars = 0, unique_line_chars = 0, no_mark = 0, ellipses = 0, bullets = 0;
        for (const uint8_t* p = begin; p <= end;) {
            auto* stop = p < end ? static_cast<const uint8_t*>(std::memchr(p, '\n', end - p)) : nullptr;
            const uint8_t *to = stop ? stop : end, *a = p, *b = to;
            while (a < b && (flags[decode(a, s)] & unicode::SPACE)) a += s;
            if (a < b) {
                for (;;) {
                    const uint8_t* q = b;
                    do --q; while ((*q & 0xc0) == 0x80);
                    if (!(flags[decode(q, s)] & unicode::SPACE)) break;
                    b = q;
                }
                ++n_lines;
                int64_t n = chars_of(p, to);
                line_chars += n;
                size_t before = lines.all.size();
                lines.add(p, uint32_t(to - p), 0);
                if (lines.all.size() > before) unique_line_chars += n;
                no_mark += !std::memchr(".?!\"'", b[-1], 5);
                bullets += bullet(decode(a, s));
                bool mark = false;
                for (const char* m : MARKS) mark = mark || ends(a, b, m);
                const uint8_t *la = low.data() + (a - begin), *lb = low.data() + (b - begin);
                ellipses += mark || ends(la, lb, "read more") || ends(la, lb, "read more..");
            }
            if (!stop) break;
            p = stop + 1;
        }
        paragraphs.clear(16);
        int64_t n_paragraphs = 0, paragraph_chars = 0, unique_paragraph_chars = 0, policies = 0;
        const uint8_t *lb = low.data(), *le = lb + size;
        bool anchored = false, lorem = find(lb, le, "lorem ipsum", 11) != nullptr;
        for (const char* anchor : ANCHORS) anchored = anchored || find(lb, le, anchor, std::strlen(anchor));
        for (const uint8_t* p = begin;;) {
            const uint8_t* stop = find(p, end, "\n\n", 2);
            const uint8_t* to = stop ? stop : end;
            ++n_paragraphs;
            int64_t n = chars_of(p, to);
            paragraph_chars += n;
            size_t before = paragraphs.all.size();
            paragraphs.add(p, uint32_t(to - p), 0);
            if (paragraphs.all.size() > before) unique_paragraph_chars += n;
            policies += anchored && boilerplate(lb + (p - begin), lb + (to - begin));
            if (!stop) break;
            p = stop + 2;
        }
        double total = double(chars), count = double(tokens.size());
        auto share = [&](int64_t v) { return chars ? double(v) / total : 1.0; };
        auto per = [&](int64_t v, double of) { return of ? double(v) / of : nan; };
        out[NON_ALNUM] = share(chars - counted);
        out[SYMBOLS] = per(symbols, count);
        out[NUMBERS] = share(digits);
        out[URLS] = share(url_chars);
        out[SPACES] = share(spaces);
        out[PARENTHESES] = share(parentheses);
        out[BOILERPLATE] = lorem ? 1.0 : per(policies, double(n_paragraphs));
        out[UNIQUE_LINES] = per(int64_t(lines.all.size()), double(n_lines));
        out[UNIQUE_PARAGRAPHS] = per(int64_t(paragraphs.all.size()), double(n_paragraphs));
        out[UNIQUE_LINE_CHARS] = per(unique_line_chars, double(line_chars));
        out[UNIQUE_PARAGRAPH_CHARS] = per(unique_paragraph_chars, double(paragraph_chars));
        out[WORDS] = count;
        out[NO_END_MARK] = per(no_mark, double(n_lines));
        out[ALPHA_WORDS] = per(alpha_words, count);
        out[COMMON_WORDS] = double(common);
        out[MEAN_WORD] = per(word_chars, count);
        out[LONGEST_WORD] = double(longest);
        out[ELLIPSIS] = per(ellipses, double(n_lines));
        out[BULLETS] = per(bullets, double(n_lines));
        repetition(out, begin, end, total);
    }
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void curator(const uint8_t* bytes, const int64_t* offsets, int64_t n,
                                                               const uint32_t* flags, double* out) {
    Judge judge{};
    judge.flags = flags;
    for (int64_t i = 0; i < n; ++i)
        judge.judge(bytes + offsets[i], size_t(offsets[i + 1] - offsets[i]), out + i * COLUMNS);
}
