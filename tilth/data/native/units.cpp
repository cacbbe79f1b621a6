// Keys of the units of texts (whole documents, paragraphs, lines, sentences). The plain form is units.py.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "unicode.hpp"
#include "xxhash.hpp"

namespace {

enum Unit { DOCUMENT, PARAGRAPH, LINE, SENTENCE };
enum Form { BYTES, SPACES, WORDS };

struct Span { const uint8_t *start, *stop; };

bool blank(const uint32_t* flags, Span s) {
    int size;
    for (const uint8_t* p = s.start; p < s.stop; p += size)
        if (!(flags[unicode::decode(p, size)] & unicode::SPACE)) return false;
    return true;
}

void cut_sentences(const uint32_t* flags, Span line, std::vector<Span>& out) {
    int size;
    const uint8_t* start = nullptr;
    for (const uint8_t* p = line.start; p < line.stop; p += size) {
        bool space = flags[unicode::decode(p, size)] & unicode::SPACE;
        if (!start && !space) start = p;
        if (!start || (*p != '.' && *p != '!' && *p != '?')) continue;
        int next;
        if (p + 1 < line.stop && flags[unicode::decode(p + 1, next)] & unicode::SPACE) {
            out.push_back({start, p + 1});
            start = nullptr;
        }
    }
    if (start) out.push_back({start, line.stop});
}

void cut(const uint32_t* flags, Span text, int unit, std::vector<Span>& out) {
    out.clear();
    if (unit == DOCUMENT) return out.push_back(text);
    bool open = false;
    for (const uint8_t* p = text.start;;) {
        const void* found = p < text.stop ? std::memchr(p, '\n', text.stop - p) : nullptr;
        Span line{p, found ? static_cast<const uint8_t*>(found) : text.stop};
        if (unit == LINE) {
            out.push_back(line);
        } else if (unit == SENTENCE) {
            cut_sentences(flags, line, out);
        } else if (blank(flags, line)) {
            open = false;
        } else if (open) {
            out.back().stop = line.stop;
        } else {
            out.push_back(line);
            open = true;
        }
        if (!found) return;
        p = line.stop + 1;
    }
}

// Appends the form of a unit to `out`; returns its characters.
int64_t write(const uint32_t* flags, const uint32_t* lower, Span s, int form, std::vector<uint8_t>& out) {
    int64_t chars = 0;
    if (form == BYTES) {
        out.insert(out.end(), s.start, s.stop);
        for (const uint8_t* p = s.start; p < s.stop; ++p) chars += (*p & 0xc0) != 0x80;
        return chars;
    }
    const size_t begin = out.size();
    int size;
    if (form == SPACES) {  // runs between white space as they are
        for (const uint8_t* p = s.start; p < s.stop;) {
            const uint8_t* first = p;
            for (; p < s.stop && !(flags[unicode::decode(p, size)] & unicode::SPACE); p += size) ++chars;
            if (p > first) {
                if (out.size() > begin) {
                    out.push_back(' ');
                    ++chars;
                }
                out.insert(out.end(), first, p);
            }
            if (p < s.stop) p += size;
        }
        return chars;
    }
    bool gap = false;
    uint8_t bytes[4];
    for (const uint8_t* p = s.start; p < s.stop; p += size) {
        uint32_t c = unicode::decode(p, size), f = flags[c];
        if (!(f & unicode::ALNUM)) {
            gap = true;
            continue;
        }
        if (gap && out.size() > begin) {
            out.push_back(' ');
            ++chars;
        }
        gap = false;
        ++chars;
        const int n = unicode::encode(lower[c], bytes);
        out.insert(out.end(), bytes, bytes + n);
    }
    return chars;
}

}  // namespace

extern "C" {

// counts int64 [n]: windows of each text; returns their sum. If `keys` is given, uint64 [sum, 2]: the key of each
// window, or 0, 0 where it has fewer than `least` characters. A window is `window` consecutive units (or all of them, of
// a text with fewer), joined by a line feed.
__attribute__((visibility("default"))) int64_t units(
    const uint8_t* bytes, const int64_t* offsets, int64_t n, const uint32_t* flags, const uint32_t* lower, int unit,
    int window, int form, int64_t least, int64_t* counts, uint64_t* keys) {
    std::vector<Span> spans;
    std::vector<uint8_t> text;
    std::vector<size_t> ends;
    std::vector<int64_t> chars;
    int64_t total = 0;
    for (int64_t i = 0; i < n; ++i) {
        cut(flags, {bytes + offsets[i], bytes + offsets[i + 1]}, unit, spans);
        const int64_t held = spans.size(), windows = held <= window ? held > 0 : held - window + 1;
        counts[i] = windows;
        if (keys) {
            text.clear();
            ends.clear();
            chars.clear();
            for (Span s : spans) {
                chars.push_back(write(flags, lower, s, form, text));
                text.push_back('\n');
                ends.push_back(text.size());
            }
            for (int64_t w = 0; w < windows; ++w) {
                const int64_t last = std::min(w + window, held) - 1;
                const size_t begin = w ? ends[w - 1] : 0, size = ends[last] - 1 - begin;
                int64_t sum = 0;
                for (int64_t u = w; u <= last; ++u) sum += chars[u];
                uint64_t* key = keys + 2 * (total + w);
                key[0] = sum < least ? 0 : xxhash::hash64(text.data() + begin, size, 0);
                key[1] = sum < least ? 0 : xxhash::hash64(text.data() + begin, size, 0x9e3779b97f4a7c15ull);
            }
        }
        total += windows;
    }
    return total;
}
}
