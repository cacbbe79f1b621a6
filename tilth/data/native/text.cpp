// The counts behind the filters of Gopher, C4 and FineWeb as DataTrove 0.10 defines them, of many texts in one pass:
// a text is read once, its chunks are looked up (text_chunks.hpp), their sums added to the sums of its lines and of the
// text, their tokens handed to the n-gram counts (text_grams.hpp). text.py holds the plain form and names the counts.
#include <memory>
#include "text_grams.hpp"

namespace {

using chunks::Chunk;
using chunks::Chunks;

enum { GOPHER = 1, REPETITION = 2, FINEWEB = 4, C4 = 8, C4_TEXT = 16 };
enum { CITATIONS = 1, TERMINAL = 2, LOREM = 4, JAVASCRIPT = 8, CURLY = 16, POLICY = 32 };

// In the order of text.COUNTS.
enum Count {
    CHARS,
    TOKENS, WORDS, WORD_CHARS, HASHES, ELLIPSES, ALPHA_WORDS, STOP_WORDS, LINES, BULLET_LINES, ELLIPSIS_LINES,
    PARAGRAPHS, DUP_PARAGRAPHS, DUP_PARAGRAPH_CHARS, NL_LINES, DUP_LINES, DUP_LINE_CHARS,
    TOP, DUP = TOP + 3,
    FW_LINES = DUP + 6, FW_PUNCTUATED, FW_SHORT, FW_DUP_CHARS, NEWLINES,
    C4_LINES, C4_KEPT, C4_LONG_WORD, C4_NO_END, C4_FEW_WORDS, C4_JAVASCRIPT, C4_POLICY, C4_CITATIONS, C4_SENTENCES,
    C4_STOPPED,
    COUNTS,
};

struct Options {
    int64_t families, short_line, min_words, max_word, c4;
};

struct Edit {  // bytes [start, stop) of a text were replaced by `put` newlines (0 or 1)
    int64_t row, start, stop, rule, put;
};

struct Result {
    std::vector<Edit> edits;
};

const english::Rules* rules = nullptr;  // set once
const uint32_t* flags = nullptr;
uint64_t stops[8];

bool ends(const uint8_t* a, const uint8_t* b, const char* with) {
    size_t n = std::strlen(with);
    return (size_t)(b - a) >= n && !std::memcmp(b - n, with, n);
}
bool begins(const uint8_t* a, const uint8_t* b, const char* with) {
    size_t n = std::strlen(with);
    return (size_t)(b - a) >= n && !std::memcmp(a, with, n);
}

constexpr int NO_RULE = -1;

// One thread's work on one text after the other.
class Reader {
public:
    Reader() : chunks_(*rules, flags, stops, 8) {}

    void read(const uint8_t* text, const uint8_t* end, const uint8_t* buffer_end, const Options& o, int64_t* out) {
        text_ = text; end_ = end; buffer_end_ = buffer_end; o_ = o; out_ = out;
        std::fill(out, out + COUNTS, 0);
        out[CHARS] = chunks::characters(text, end);
        stop_words_ = 0;
        grams_.clear();
        kept_.clear();
        dropped_.clear();
        if (o.families & (GOPHER | REPETITION | FINEWEB | C4)) words();
        if (o.families & (REPETITION | FINEWEB)) newlines();
        if (o.families & REPETITION) {
            paragraphs();
            grams_.top(out + TOP);
            grams_.repeated(out + DUP);
        }
        out[STOP_WORDS] = __builtin_popcount(stop_words_);
    }

    // The text C4's line rules leave, at `to`; what was changed goes to `edits`. Returns the end of what was written.
    uint8_t* edited(uint8_t* to, int64_t row, std::vector<Edit>& edits) {
        trim();
        const uint8_t* from = text_;
        size_t d = 0;
        for (size_t i = 0; i <= kept_.size(); i++) {
            const uint8_t* next = i < kept_.size() ? kept_[i].a : end_;
            int put = i > 0 && i < kept_.size() && kept_[i].newline;
            while (d < dropped_.size() && dropped_[d].b <= from) d++;
            bool same = put && next - from == 1 && *from == '\n';
            int left = put;
            for (; d < dropped_.size() && dropped_[d].b <= next; d++) {
                edits.push_back({row, from - text_, dropped_[d].b - text_, dropped_[d].rule, left});
                left = 0;
                from = dropped_[d].b;
            }
            int rule = next > from && std::memchr(from, '[', next - from) ? RULE_CITATION : RULE_SPACE;
            if (!same && (next > from || left)) edits.push_back({row, from - text_, next - text_, rule, left});
            if (put) *to++ = '\n';
            if (i == kept_.size()) break;
            std::memcpy(to, kept_[i].a, kept_[i].b - kept_[i].a);
            to += kept_[i].b - kept_[i].a;
            from = kept_[i].b;
        }
        return to;
    }

private:
    enum { RULE_LONG, RULE_NO_END, RULE_FEW, RULE_JAVASCRIPT, RULE_POLICY, RULE_CITATION, RULE_SPACE };
    struct Piece { const uint8_t *a, *b; bool newline; };  // of the text that is kept; a newline stands before it
    struct Dropped { const uint8_t* b; int rule; };  // a line up to its end with its break

    // The line that is being read (as str.splitlines cuts lines).
    struct Line {
        const uint8_t *first, *last;  // begin of its first chunk, end of its last
        int64_t words;
        int64_t longest, sentences;
        bool ended, gap;
        uint8_t flags;
    };

    const uint8_t *text_, *end_, *buffer_end_;
    Options o_;
    int64_t* out_;
    Chunks chunks_;
    grams::Grams grams_;
    grams::Counter seen_;
    Line line_;
    bool open_;  // a line has begun and not ended
    unsigned stop_words_;
    std::vector<Piece> kept_;
    std::vector<Dropped> dropped_;
    std::vector<uint8_t> scratch_;
    std::string lower_;

    void words() {
        // Some chunks are found ahead, so that their sums are on their way to the cache when they are needed.
        struct Ahead { chunks::Key key; const uint8_t *stop, *next; } ahead[16];
        line_ = Line{};
        open_ = false;
        const uint8_t* p = spaces(text_);
        white(text_, p);
        while (p < end_) {
            int n = 0;
            for (; n < 16 && p < end_; n++) {
                const uint8_t* q = chunks_.chunk_end(p, end_);
                ahead[n].key = chunks_.key(p, q - p, buffer_end_);
                ahead[n].stop = q;
                ahead[n].next = p = spaces(q);
            }
            for (int i = 0; i < n; i++) {
                const Ahead& a = ahead[i];
                chunk(a.key);
                if (a.next - a.stop != 1 || *a.stop != ' ') white(a.stop, a.next);
            }
        }
        if (open_) line(end_);
    }

    void chunk(const chunks::Key& key) {
        const Chunk& c = chunks_.get(key);
        out_[TOKENS] += c.tokens;
        out_[WORDS] += c.words;
        out_[WORD_CHARS] += c.word_chars;
        out_[ALPHA_WORDS] += c.letters;
        out_[HASHES] += c.hashes;
        out_[ELLIPSES] += c.dots;
        stop_words_ |= c.stops;
        if (o_.families & REPETITION) {
            if (c.tokens == 1) grams_.add({c.hash, c.bytes, c.chars});
            else for (uint32_t i = 0; i < c.tokens; i++) grams_.add(chunks_.tokens()[i]);
        }
        if (!line_.words++) line_.first = key.p;
        line_.last = key.p + key.n;
        line_.longest = std::max<int64_t>(line_.longest, c.chars);
        line_.flags |= c.flags;
        sentence(line_.ended, line_.sentences, line_.gap, c);
        line_.gap = false;
        open_ = true;
    }

    // The end of the white space at p.
    const uint8_t* spaces(const uint8_t* p) const {
        if (p + 1 < end_ && *p == ' ' && p[1] - 33u < 94) return p + 1;
        for (int size; p < end_ && chunks_.space(unicode::decode(p, size));) p += size;
        return p;
    }

    // A run of white space, which ends lines and, unless it is one space, is a token to the sentence rule.
    void white(const uint8_t* p, const uint8_t* q) {
        bool broken = false;
        const bool gap = q - p != 1 || *p != ' ';
        while (p < q) {
            int size;
            uint32_t u = unicode::decode(p, size);
            p += size;
            open_ = true;
            if (!rules->is(u, english::BREAK)) continue;
            if (u == '\r' && p < q && *p == '\n') p++;
            line(p);
            open_ = false;
            broken = true;
        }
        line_.gap = gap && !broken;
    }

    // spaCy's sentencizer over one more chunk: after a token that ends sentences, the next that is no punctuation begins
    // one. `gap`: a token of white space stands before it.
    static void sentence(bool& ended, int64_t& starts, bool gap, const Chunk& c) {
        if (gap && ended) { starts++; ended = false; }
        starts += c.starts + (ended && c.sentence & chunks::STARTS);
        ended = c.sentence & (ended ? chunks::ENDED_AFTER_ONE : chunks::ENDED_AFTER_NONE);
    }

    // The line whose last chunk was read has ended, and its break at b.
    void line(const uint8_t* b) {
        out_[LINES]++;
        if (line_.words) {
            out_[BULLET_LINES] += *line_.first == '-' || begins(line_.first, line_.last, "\xe2\x80\xa2");
            out_[ELLIPSIS_LINES] += ends(line_.first, line_.last, "...") || ends(line_.first, line_.last, "\xe2\x80\xa6");
        }
        if (o_.families & C4) c4(b);
        line_ = Line{};
    }

    void drop(Count why, int rule, const uint8_t* b) {
        out_[why]++;
        dropped_.push_back({b, rule});
    }

    void c4(const uint8_t* stop) {
        out_[C4_LINES]++;
        const uint8_t *a = line_.first ? line_.first : stop, *b = line_.last ? line_.last : stop;
        if (line_.longest > o_.max_word) return drop(C4_LONG_WORD, RULE_LONG, stop);
        size_t first = kept_.size();
        int64_t sentences = 1 + line_.sentences;
        const uint8_t *x = a, *y = b, *bound = buffer_end_;  // what the rules look at
        uint8_t found = line_.flags;
        if ((o_.c4 & CITATIONS) && (found & chunks::BRACKET) && without_citations(a, b)) {
            x = scratch_.data();
            y = bound = x + scratch_.size();
            found |= chunks::HINT;
            sentences = count_sentences(x, y);
        } else {
            kept_.push_back({a, b, first > 0});
        }
        auto refuse = [&](Count why, int rule) { kept_.resize(first); drop(why, rule, stop); };
        if (o_.c4 & TERMINAL) {
            bool mark = y > x && std::strchr(".?!\"'", y[-1]) && y[-1];
            if (!mark || ends(x, y, "...")) return refuse(C4_NO_END, RULE_NO_END);
        }
        if (line_.words < o_.min_words) return refuse(C4_FEW_WORDS, RULE_FEW);
        bool policy = false;
        if (found & chunks::HINT) {
            lower(x, y);
            if ((o_.c4 & LOREM) && has("lorem ipsum") && !out_[C4_STOPPED]) out_[C4_STOPPED] = 1;
            if ((o_.c4 & JAVASCRIPT) && has("javascript")) return refuse(C4_JAVASCRIPT, RULE_JAVASCRIPT);
            policy = has("terms of use") || has("privacy policy") || has("cookie policy") || has("uses cookies") ||
                     has("use of cookies") || has("use cookies");
        }
        if ((o_.c4 & CURLY) && (found & chunks::BRACE) && !out_[C4_STOPPED]) out_[C4_STOPPED] = 2;
        if ((o_.c4 & POLICY) && policy) return refuse(C4_POLICY, RULE_POLICY);
        out_[C4_KEPT]++;
        out_[C4_SENTENCES] += sentences;
    }

    // Cuts [digits], [edit] and [citation needed] out of the line: what is left goes to scratch_ and, as pieces, to
    // kept_. False, and nothing done, if there are none.
    bool without_citations(const uint8_t* a, const uint8_t* b) {
        bool any = false, newline = !kept_.empty();
        scratch_.clear();
        const uint8_t* from = a;
        for (const uint8_t* p = a; p < b;) {
            p = (const uint8_t*)std::memchr(p, '[', b - p);
            if (!p) break;
            int n = citation(p, b);
            if (!n) { p++; continue; }
            any = true;
            out_[C4_CITATIONS]++;
            kept_.push_back({from, p, newline});
            newline = false;
            scratch_.insert(scratch_.end(), from, p);
            from = p += n;
        }
        if (!any) return false;
        kept_.push_back({from, b, false});
        scratch_.insert(scratch_.end(), from, b);
        scratch_.reserve(scratch_.size() + 8);
        return true;
    }

    static int citation(const uint8_t* p, const uint8_t* b) {
        if (begins(p, b, "[edit]")) return 6;
        if (begins(p, b, "[citation needed]")) return 17;
        const uint8_t* q = p + 1;
        while (q < b) {
            if (*q == ']') return q + 1 - p;
            int size;
            if (!rules->is(unicode::decode(q, size), english::DECIMAL)) return 0;
            q += size;
        }
        return 0;
    }

    int64_t count_sentences(const uint8_t* p, const uint8_t* end) {
        bool ended = false, gap = false;
        int64_t starts = 1;
        while (p < end) {
            const uint8_t* q = chunks_.chunk_end(p, end);
            if (q > p) sentence(ended, starts, gap, chunks_.get(chunks_.key(p, q - p, end)));
            p = q;
            int size;
            while (p < end && chunks_.space(unicode::decode(p, size))) p += size;
            gap = p > q && !(p - q == 1 && *q == ' ');
        }
        return starts + (gap && ended);
    }

    // str.lower as far as the phrases can tell: ASCII, and the Kelvin sign, which becomes k.
    void lower(const uint8_t* a, const uint8_t* b) {
        lower_.assign((const char*)a, b - a);
        for (char& c : lower_)
            if ((uint8_t)(c - 'A') < 26) c += 32;
        for (size_t i; (i = lower_.find("\xe2\x84\xaa")) != std::string::npos;) lower_.replace(i, 3, "k");
    }
    bool has(const char* phrase) const { return lower_.find(phrase) != std::string::npos; }

    // str.strip of the text that the pieces make up.
    void trim() {
        size_t i = 0;
        for (; i < kept_.size(); i++) {
            Piece& k = kept_[i];
            int size;
            while (k.a < k.b && chunks_.space(unicode::decode(k.a, size))) k.a += size;
            if (k.a < k.b) break;
        }
        kept_.erase(kept_.begin(), kept_.begin() + i);
        if (!kept_.empty()) kept_[0].newline = false;
        while (!kept_.empty()) {
            Piece& k = kept_.back();
            while (k.a < k.b) {
                const uint8_t* q = k.b - 1;
                while ((*q & 0xc0) == 0x80) q--;
                int size;
                if (!chunks_.space(unicode::decode(q, size))) break;
                k.b = q;
            }
            if (k.a < k.b) break;
            kept_.pop_back();
        }
    }

    // Lines as split("\n") gives them (FineWeb, those that are not blank) and split("\n+") (Gopher's repetition).
    void newlines() {
        seen_.reset();
        const uint8_t* p = text_;
        int64_t number = 0;
        out_[NL_LINES] = out_[CHARS] == 0 || *text_ == '\n';
        if (text_ < end_ && end_[-1] == '\n') {
            out_[NL_LINES]++;
            out_[DUP_LINES]++;  // the second empty line, if there is one before the text
            if (*text_ != '\n') out_[DUP_LINES]--;
        }
        while (p <= end_) {
            const uint8_t* q = p < end_ ? (const uint8_t*)std::memchr(p, '\n', end_ - p) : nullptr;
            if (!q) q = end_; else out_[NEWLINES]++;
            if (q > p) {
                bool blank = is_blank(p, q);
                bool again = seen_.add(chunks::hash(p, q - p, buffer_end_), number++).count > 1;
                int64_t size = q - p > o_.short_line || again ? chunks::characters(p, q) : 0;  // 0: not needed
                out_[NL_LINES]++;
                if (again) { out_[DUP_LINES]++; out_[DUP_LINE_CHARS] += size; }
                if (!blank) {
                    out_[FW_LINES]++;
                    out_[FW_PUNCTUATED] += terminal(p, q);
                    out_[FW_SHORT] += size <= o_.short_line;
                    if (again) out_[FW_DUP_CHARS] += size;
                }
            }
            p = q + 1;
        }
    }

    bool is_blank(const uint8_t* p, const uint8_t* q) const {
        int size;
        for (; p < q; p += size)
            if (!chunks_.space(unicode::decode(p, size))) return false;
        return true;
    }

    bool terminal(const uint8_t* p, const uint8_t* q) const {
        const uint8_t* last = q - 1;
        while (last > p && (*last & 0xc0) == 0x80) last--;
        int size;
        return rules->is(unicode::decode(last, size), english::TERMINAL);
    }

    // Paragraphs: the stripped text split at runs of two and more newlines.
    void paragraphs() {
        const uint8_t *a = text_, *b = end_;
        int size;
        while (a < b && chunks_.space(unicode::decode(a, size))) a += size;
        while (b > a) {
            const uint8_t* q = b - 1;
            while ((*q & 0xc0) == 0x80) q--;
            if (!chunks_.space(unicode::decode(q, size))) break;
            b = q;
        }
        seen_.reset();
        for (int64_t number = 0;; number++) {
            const uint8_t* q = a;
            while ((q = q < b ? (const uint8_t*)std::memchr(q, '\n', b - q) : nullptr) && q[1] != '\n') q++;
            const uint8_t* stop = q ? q : b;
            out_[PARAGRAPHS]++;
            if (seen_.add(chunks::hash(a, stop - a, buffer_end_), number).count > 1) {
                out_[DUP_PARAGRAPHS]++;
                out_[DUP_PARAGRAPH_CHARS] += chunks::characters(a, stop);
            }
            if (!q) break;
            for (a = q; *a == '\n'; a++) {}
        }
    }
};

}  // namespace

extern "C" {

// classes uint16 [0x110000], flags uint32 [0x110000], exceptions and units as english.py packs them, hashes of 8 words.
__attribute__((visibility("default"))) void text_init(
    const uint16_t* classes, const uint32_t* property, const uint8_t* exceptions, int64_t exceptions_size,
    const uint32_t* units, int64_t units_size, const uint8_t* stop_words) {
    auto* made = new english::Rules(classes, property, exceptions, exceptions_size, units, units_size);
    for (uint64_t& s : stops) {
        size_t n = std::strlen((const char*)stop_words);
        s = english::joined.hash(stop_words, n);
        stop_words += n + 1;
    }
    flags = property;
    rules = made;
}

// Counts int64 [n, COUNTS] of n texts. With C4_TEXT: the texts the C4 rules leave to `text` (as many bytes as came in)
// and their offsets to `places` [n + 1]; the result then holds the edits, else it is empty. Free it with text_free.
__attribute__((visibility("default"))) void* text_run(
    const uint8_t* bytes, const int64_t* offsets, int64_t n, const int64_t* options, int64_t* counts, uint8_t* text,
    int64_t* places) {
    static thread_local std::unique_ptr<Reader> reader;
    if (!reader) reader.reset(new Reader);
    Options o{options[0], options[1], options[2], options[3], options[4]};
    auto* result = new Result;
    uint8_t* to = text;
    for (int64_t i = 0; i < n; i++) {
        reader->read(bytes + offsets[i], bytes + offsets[i + 1], bytes + offsets[n], o, counts + i * COUNTS);
        if (!(o.families & C4_TEXT)) continue;
        places[i] = to - text;
        to = reader->edited(to, i, result->edits);
        places[i + 1] = to - text;
    }
    return result;
}

__attribute__((visibility("default"))) int64_t text_edits(void* result, int64_t* out) {
    const auto& edits = ((Result*)result)->edits;
    if (out) std::memcpy(out, edits.data(), edits.size() * sizeof(Edit));
    return edits.size();
}

__attribute__((visibility("default"))) void text_free(void* result) { delete (Result*)result; }

// Ends of the tokens of one text in bytes, as many as fit; returns how many there are. For tests.
__attribute__((visibility("default"))) int64_t text_tokens(const uint8_t* p, int64_t n, int64_t* ends, int64_t room) {
    static thread_local std::unique_ptr<Chunks> chunks;
    if (!chunks) chunks.reset(new Chunks(*rules, flags, stops, 8));
    const uint8_t *text = p, *end = p + n;
    int64_t count = 0;
    while (p < end) {
        const uint8_t* q = chunks->chunk_end(p, end);
        if (q > p) {
            const Chunk& c = chunks->get(chunks->key(p, q - p, end));
            for (uint32_t i = 0; i < c.tokens; i++) {
                p += c.tokens == 1 ? c.bytes : chunks->tokens()[i].bytes;
                if (count < room) ends[count] = p - text;
                count++;
            }
        }
        int size;
        for (p = q; p < end && chunks->space(unicode::decode(p, size)); p += size) {}
    }
    return count;
}
}
