// The RedPajama-v2 signals of texts in one pass over their bytes. The plain form, which says what is computed, is
// redpajama.py; columns are written in its order.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "ids.hpp"
#include "unicode.hpp"

namespace {

using namespace ids;
using unicode::decode;
using unicode::encode;

enum Case : uint8_t { CASED = 1, IGNORABLE = 2, TITLE = 4 };
enum : uint8_t { A_UPPER = 1, A_LOWER = 2, A_SPACE = 4, A_PUNCT = 8, A_STOP = 16, A_DIGIT = 128 };
constexpr uint8_t A_ALNUM = A_UPPER | A_LOWER | A_DIGIT;

struct Tables {
    const uint32_t* flags;     // [0x110000] unicode.BITS
    const uint32_t* fold;      // [0x110000] the one code point of NFD(lower(c)), or SEVERAL | place in pool
    const uint32_t* pool;      // length, then so many code points
    const uint8_t* combining;  // [0x110000] canonical combining class
    const uint8_t* cases;      // [0x110000] Case
};
constexpr uint32_t SEVERAL = 0x80000000;

struct Ascii {
    uint8_t what[256] = {};  // 0 from 128 on
    Ascii() {
        for (int c = 0; c < 128; ++c) {
            bool upper = c >= 'A' && c <= 'Z', lower = c >= 'a' && c <= 'z', digit = c >= '0' && c <= '9';
            bool space = (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
            bool punct = c > 32 && c < 127 && !upper && !lower && !digit;
            what[c] = (upper ? A_UPPER : 0) | (lower ? A_LOWER : 0) | (digit ? A_DIGIT : 0) | (space ? A_SPACE : 0) |
                      (punct ? A_PUNCT : 0) | (c == '.' || c == '!' || c == '?' ? A_STOP : 0);
        }
    }
};
const Ascii ascii;

// Entries of several words of a list: hashes of their words' bytes joined by a space.
struct Phrases {
    Words entries;
    uint32_t longest = 0;  // words
    void add(const uint8_t* p, uint32_t n) {
        uint32_t words = 1;
        for (uint32_t i = 0; i < n; ++i) words += p[i] == ' ';
        if (words > longest) longest = words;
        entries.add(p, n, 0);
    }
};

enum Column {
    WORDS, MEAN_LENGTH, SYMBOLS, NO_ALPHA, UNIQUE, ENTROPY, ALL_CAPS, ELLIPSIS, SENTENCES, STOP_WORDS, LOREM, CURLY,
    TOP2, TOP3, TOP4, DUPE5, DUPE6, DUPE7, DUPE8, DUPE9, DUPE10, LINES, LINE_END, LINE_BULLET, LINE_WORDS, LINE_UPPER,
    LINE_NUMBERS, LINE_JAVASCRIPT, BAD_WORDS, COLUMNS
};

bool bullet(uint32_t c) {
    return c == 0x2022 || c == 0x2023 || c == 0x25b6 || c == 0x25c0 || c == 0x25e6 || c == 0x25a0 || c == 0x25a1 ||
           c == 0x25aa || c == 0x25ab || c == 0x2013;
}

struct Scanner {
    const Tables& t;
    const Words& stops;
    uint32_t longest_stop;
    const Phrases& bad;
    Words words;
    Pairs pairs;
    std::vector<uint32_t> ids, grams, starts;
    std::vector<uint8_t> marked;
    std::vector<uint32_t> raw, folded;
    std::vector<uint8_t> buffer, joined, stop_buffer;

    Scanner(const Tables& tables, const Words& stop_words, uint32_t longest, const Phrases& phrases)
        : t(tables), stops(stop_words), longest_stop(longest), bad(phrases), stop_buffer(longest + SLACK) {}

    // The code points of `raw` lower-cased and decomposed, into `folded`.
    void fold_word() {
        folded.clear();
        for (size_t i = 0; i < raw.size(); ++i) {
            uint32_t c = raw[i];
            if (c == 0x3a3) {
                folded.push_back(ends_word(i) ? 0x3c2 : 0x3c3);
                continue;
            }
            uint32_t f = t.fold[c];
            if (f & SEVERAL) {
                const uint32_t* p = t.pool + (f & ~SEVERAL);
                folded.insert(folded.end(), p + 1, p + 1 + *p);
            } else {
                folded.push_back(f);
            }
        }
        for (size_t i = 1; i < folded.size(); ++i) {  // canonical order
            uint8_t rank = t.combining[folded[i]];
            if (!rank) continue;
            uint32_t c = folded[i];
            size_t j = i;
            while (j && t.combining[folded[j - 1]] > rank) { folded[j] = folded[j - 1]; --j; }
            folded[j] = c;
        }
    }
    bool ends_word(size_t at) const {
        bool before = false;
        for (size_t i = at; i-- > 0;) {
            if (t.cases[raw[i]] & IGNORABLE) continue;
            before = t.cases[raw[i]] & CASED;
            break;
        }
        if (!before) return false;
        for (size_t i = at + 1; i < raw.size(); ++i) {
            if (t.cases[raw[i]] & IGNORABLE) continue;
            return !(t.cases[raw[i]] & CASED);
        }
        return true;
    }

    // Most frequent n-gram's share and the share of words in repeated n-grams, by n.
    void repetition(double* out, double total) {
        for (int n = 2; n <= 10; ++n) out[n <= 4 ? TOP2 + n - 2 : DUPE5 + n - 5] = 0;
        size_t n_words = ids.size();
        if (n_words < 2 || total == 0) return;
        // grams[i] is the id of the (n-1)-gram at starts[i], for those that may be part of a repeated n-gram.
        grams = ids;
        starts.resize(n_words);
        for (size_t i = 0; i < n_words; ++i) starts[i] = uint32_t(i);
        for (int n = 2; n <= 10; ++n) {
            size_t m = starts.size(), k = 0;
            pairs.clear(m);
            for (size_t i = 0; i + 1 < m; ++i) {
                if (starts[i + 1] != starts[i] + 1) continue;
                uint32_t id = pairs.add(grams[i], grams[i + 1]);
                starts[k] = starts[i];
                grams[k++] = id;
            }
            uint32_t best = 1, at = 0;
            for (uint32_t id = 0; id < pairs.counts.size(); ++id)
                if (pairs.counts[id] > best) { best = pairs.counts[id]; at = id; }
            if (best == 1) return;  // nothing is repeated, so nothing longer is
            if (n <= 4) {
                size_t first = 0;
                while (grams[first] != at) ++first;
                uint64_t chars = 0;
                for (int j = 0; j < n; ++j) chars += words.all[ids[starts[first] + j]].chars;
                out[TOP2 + n - 2] = double(chars * best) / total;
            }
            size_t kept = 0;
            uint64_t chars = 0, end = 0;
            for (size_t i = 0; i < k; ++i) {
                if (pairs.counts[grams[i]] < 2) continue;
                if (n >= 5) {
                    uint64_t from = starts[i] > end ? starts[i] : end;
                    end = starts[i] + n;
                    for (uint64_t w = from; w < end; ++w) chars += words.all[ids[w]].chars;
                }
                starts[kept] = starts[i];
                grams[kept++] = grams[i];
            }
            if (n >= 5) out[DUPE5 + n - 5] = double(chars) / total;
            starts.resize(kept);
            grams.resize(kept);
        }
    }

    uint64_t bad_words() {
        uint64_t found = 0;
        for (size_t i = 0; i < ids.size(); ++i) {
            joined.clear();
            for (uint32_t n = 1; n <= bad.longest && i + n <= ids.size(); ++n) {
                const Words::Word& w = words.all[ids[i + n - 1]];
                if (n > 1) joined.push_back(' ');
                joined.insert(joined.end(), words.bytes.begin() + w.at, words.bytes.begin() + w.at + w.size);
                joined.reserve(joined.size() + SLACK);
                found += bad.entries.find(joined.data(), uint32_t(joined.size())) != Words::NONE;
            }
        }
        return found;
    }

    void room(size_t n) {
        if (buffer.size() < n + SLACK) buffer.resize(2 * (n + SLACK));
    }
    uint64_t raw_words = 0, no_alpha = 0, caps = 0, stop = 0;

    // Counts a raw word of one kind of characters and begins another.
    void end_token(int kind, const uint8_t*& token, const uint8_t* at, bool& alpha, bool& upper, bool& lower) {
        ++raw_words;
        no_alpha += !alpha;
        caps += upper && !lower;
        size_t n = at - token;
        if (kind == 1 && n <= longest_stop) {
            std::memcpy(stop_buffer.data(), token, n);
            stop += stops.find(stop_buffer.data(), uint32_t(n)) != Words::NONE;
        }
        alpha = upper = lower = false;
        token = at;
    }

    void scan(const uint8_t* begin, const uint8_t* end, double* out) {
        const double nan = std::nan("");
        words.clear(size_t(end - begin) / 24 + 16);
        ids.clear();
        raw_words = no_alpha = caps = stop = 0;
        uint64_t chars = 0, symbols = 0, curly = 0;
        uint64_t sentences = 0, lines = 0, lines_ellipsis = 0, lines_end = 0, lines_bullet = 0, javascript = 0;
        uint64_t word_chars = 0, lorem = 0;
        double upper_share = 0, number_share = 0;
        bool said = false;           // the sentence has a word character
        int dots = 0;
        bool lorem_before = false;   // the last word ended in "lorem"
        // of the line
        uint64_t line_chars = 0, line_upper = 0, line_numbers = 0, line_length = 0, line_words = 0;
        uint32_t first = 0;
        const uint8_t *last = nullptr, *line = begin;
        auto end_line = [&] {
            ++lines;
            if (line_upper) upper_share += double(line_upper) / double(line_chars);
            if (line_numbers) number_share += double(line_numbers) / double(line_length + line_words - 1);
            if (last) {
                size_t n = last - line;
                lines_ellipsis += n >= 3 && (!std::memcmp(last - 3, "...", 3) || !std::memcmp(last - 3, "\xe2\x80\xa6", 3));
                lines_end += last[-1] == '.' || last[-1] == '!' || last[-1] == '?' ||
                             (n >= 3 && !std::memcmp(last - 3, "\xe2\x80\x9d", 3));
                lines_bullet += bullet(first);
            }
            line_chars = line_upper = line_numbers = line_length = line_words = 0;
            first = 0;
            last = nullptr;
        };
        int size = 1;
        for (const uint8_t* p = begin; p < end;) {
            // White space.
            uint8_t b = *p;
            if (b < 0x80 ? ascii.what[b] & A_SPACE : t.flags[decode(p, size)] & unicode::SPACE) {
                if (b < 0x80) size = 1;
                dots = 0;
                ++chars;
                ++line_chars;
                p += size;
                if (b == '\n') { end_line(); line = p; }
                continue;
            }
            // A run without white space: tokens of word characters or of others, and one normalised word.
            const uint8_t* chunk = p;
            bool plain = true;  // all ASCII
            int kind = -1;      // of the token: 1 word characters, 0 others
            const uint8_t* token = p;
            bool alpha = false, has_upper = false, has_lower = false;
            uint32_t numbers = 0, other_chars = 0;
            size_t n = 0;  // bytes of the normalised word
            if (!first) first = decode(p, size);
            while (p < end) {
                // Letters and digits, the bulk of any text.
                const uint8_t* run = p;
                uint32_t seen = 0, upper = 0;
                uint8_t f = 0;
                while (p < end && (f = ascii.what[*p]) & A_ALNUM) {
                    seen |= f;
                    upper += f & A_UPPER;  // A_UPPER is 1
                    numbers += f / A_DIGIT;
                    ++p;
                }
                if (size_t m = p - run) {
                    if (kind != 1) {
                        if (kind >= 0) end_token(kind, token, run, alpha, has_upper, has_lower);
                        kind = 1;
                    }
                    alpha |= (seen & (A_UPPER | A_LOWER)) != 0;
                    has_upper |= upper != 0;
                    has_lower |= (seen & A_LOWER) != 0;
                    line_upper += upper;
                    room(n + m);
                    uint8_t* w = buffer.data() + n;
                    for (size_t i = 0; i < m; ++i) w[i] = run[i] | 0x20;
                    n += m;
                    said = true;
                    if (p == end) break;
                    f = ascii.what[*p];
                }
                if (f & A_SPACE) break;
                dots = p > run ? 0 : dots;
                uint8_t b = *p;
                if (b < 0x80) {
                    int is_word = b == '_';
                    if (is_word != kind) {
                        if (kind >= 0) end_token(kind, token, p, alpha, has_upper, has_lower);
                        kind = is_word;
                    }
                    if (b == '.') {
                        if (++dots == 3) { ++symbols; dots = 0; }
                    } else {
                        dots = 0;
                        symbols += b == '#';
                        curly += b == '{' || b == '}';
                    }
                    if (f & A_STOP) { sentences += said; said = false; }
                    said |= is_word;
                    if (!(f & A_PUNCT)) { room(n + 1); buffer[n++] = b; }  // control characters
                    ++p;
                } else {
                    uint32_t c = decode(p, size), is = t.flags[c];
                    if (is & unicode::SPACE) break;
                    plain = false;
                    int is_word = (is & unicode::WORD) != 0;
                    if (is_word != kind) {
                        if (kind >= 0) end_token(kind, token, p, alpha, has_upper, has_lower);
                        kind = is_word;
                    }
                    dots = 0;
                    said |= is_word;
                    symbols += c == 0x2026;
                    has_upper |= (is & unicode::UPPER) != 0;
                    line_upper += (is & unicode::UPPER) != 0;
                    has_lower |= (is & unicode::LOWER) || (t.cases[c] & TITLE);
                    p += size;
                    other_chars += size - 1;
                }
            }
            end_token(kind, token, p, alpha, has_upper, has_lower);
            dots = 0;
            last = p;
            uint32_t size_in_chars = uint32_t(p - chunk) - other_chars;
            chars += size_in_chars;
            line_chars += size_in_chars;
            uint32_t length = uint32_t(n);
            if (!plain) {
                raw.clear();
                numbers = 0;
                for (const uint8_t* q = chunk; q < p; q += size) {
                    uint32_t c = decode(q, size);
                    if (c >= 0x80 || !(ascii.what[c] & A_PUNCT)) raw.push_back(c);
                }
                fold_word();
                n = 0;
                room(4 * folded.size());
                for (uint32_t c : folded) {
                    numbers += (t.flags[c] & unicode::NUMERIC) != 0;
                    n += encode(c, buffer.data() + n);
                }
                length = uint32_t(folded.size());
            }
            if (!length) continue;
            ids.push_back(words.add(buffer.data(), uint32_t(n), length));
            word_chars += length;
            line_length += length;
            ++line_words;
            line_numbers += numbers;
            if (lorem_before && n >= 5 && !std::memcmp(buffer.data(), "ipsum", 5)) ++lorem;
            lorem_before = n >= 5 && !std::memcmp(buffer.data() + n - 5, "lorem", 5);
            javascript += n == 10 && !std::memcmp(buffer.data(), "javascript", 10);
        }
        sentences += said;
        if (line < end) end_line();

        double count = double(ids.size()), raw_count = double(raw_words), total = double(word_chars);
        out[WORDS] = count;
        out[MEAN_LENGTH] = ids.empty() ? nan : total / count;
        out[SYMBOLS] = raw_words ? double(symbols) / raw_count : nan;
        out[NO_ALPHA] = raw_words ? 1.0 - double(raw_words - no_alpha) / raw_count : nan;
        out[UNIQUE] = ids.empty() ? nan : double(words.all.size()) / count;
        double entropy = 0;
        for (auto& w : words.all) entropy += -double(w.count) / count * std::log(double(w.count) / count);
        out[ENTROPY] = ids.empty() ? nan : entropy;
        out[ALL_CAPS] = raw_words ? double(caps) / raw_count : nan;
        out[ELLIPSIS] = lines ? double(lines_ellipsis) / double(lines) : nan;
        out[SENTENCES] = double(sentences);
        out[STOP_WORDS] = ids.empty() ? 0 : double(stop) / raw_count;
        out[LOREM] = lorem ? double(lorem) / (total + count - 1) : 0;
        out[CURLY] = chars ? double(curly) / double(chars) : 0;
        repetition(out, total);
        out[LINES] = double(lines);
        out[LINE_END] = lines ? double(lines_end) / double(lines) : nan;
        out[LINE_BULLET] = lines ? double(lines_bullet) / double(lines) : nan;
        out[LINE_WORDS] = lines ? count / double(lines) : nan;
        out[LINE_UPPER] = lines ? upper_share / double(lines) : nan;
        out[LINE_NUMBERS] = lines ? number_share / double(lines) : nan;
        out[LINE_JAVASCRIPT] = double(javascript);
        out[BAD_WORDS] = double(bad.longest ? bad_words() : 0);
    }
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void redpajama(
    const uint8_t* bytes, const int64_t* offsets, int64_t n, const uint32_t* flags, const uint32_t* fold,
    const uint32_t* pool, const uint8_t* combining, const uint8_t* cases, const uint8_t* stop_bytes,
    const int64_t* stop_offsets, int64_t stop_n, const uint8_t* bad_bytes, const int64_t* bad_offsets, int64_t bad_n,
    double* out) {
    Tables tables{flags, fold, pool, combining, cases};
    std::vector<uint8_t> copy;
    auto slack = [&](const uint8_t* p, size_t size) {
        copy.assign(p, p + size);
        copy.resize(size + SLACK);
        return copy.data();
    };
    Words stops;
    stops.clear(size_t(stop_n) + 8);
    uint32_t longest = 0;
    for (int64_t i = 0; i < stop_n; ++i) {
        uint32_t size = uint32_t(stop_offsets[i + 1] - stop_offsets[i]);
        if (size > longest) longest = size;
        stops.add(slack(stop_bytes + stop_offsets[i], size), size, 0);
    }
    Phrases bad;
    bad.entries.clear(size_t(bad_n) + 8);
    for (int64_t i = 0; i < bad_n; ++i)
        bad.add(slack(bad_bytes + bad_offsets[i], bad_offsets[i + 1] - bad_offsets[i]),
                uint32_t(bad_offsets[i + 1] - bad_offsets[i]));
    Scanner scanner(tables, stops, longest, bad);
    for (int64_t i = 0; i < n; ++i) scanner.scan(bytes + offsets[i], bytes + offsets[i + 1], out + i * COLUMNS);
}
