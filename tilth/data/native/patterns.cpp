// Personal data and secrets in texts, found in linear time: every pattern is tried only where it may begin (or, for an
// address, at its @) and looks at a bounded stretch. The plain form, which says what is matched, is patterns.py.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "unicode.hpp"

namespace {

enum Kind : int32_t { EMAIL, IPV4, IPV6, PHONE, CARD, KEY };
enum : uint8_t { DIGIT = 1, LETTER = 2, HEX = 4, LOCAL = 8, UPPER = 16, TRIGGER = 32, TOKEN = 64, SECRET = 128 };
constexpr uint8_t ALNUM = DIGIT | LETTER;

struct Classes {
    uint8_t of[256] = {};
    Classes() {
        for (int c = 0; c < 128; ++c) {
            bool upper = c >= 'A' && c <= 'Z', letter = upper || (c >= 'a' && c <= 'z'), digit = c >= '0' && c <= '9';
            bool hex = digit || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
            uint8_t f = (digit ? DIGIT : 0) | (letter ? LETTER : 0) | (hex ? HEX : 0) | (upper ? UPPER : 0);
            if (letter || digit || (c && std::strchr("_%+'-.", c))) f |= LOCAL;
            if (letter || digit || c == '_' || c == '-') f |= TOKEN;
            if (letter || digit || (c && std::strchr("+/=_-.!@#$%^&*", c))) f |= SECRET;
            if (digit || (c && std::strchr("@+(-=:Agxsrhne", c))) f |= TRIGGER;
            of[c] = f;
        }
    }
};
const Classes classes;

struct Prefix { const char* text; char rest; int low, high; };  // rest: U upper and digits, A alphanumeric, W and _, D and -
const Prefix PREFIXES[] = {
    {"AKIA", 'U', 16, 16},    {"ASIA", 'U', 16, 16},  {"AIza", 'D', 35, 35},     {"ghp_", 'A', 36, 36},
    {"gho_", 'A', 36, 36},    {"ghu_", 'A', 36, 36},  {"ghs_", 'A', 36, 36},     {"ghr_", 'A', 36, 36},
    {"github_pat_", 'W', 82, 82}, {"glpat-", 'D', 20, 40}, {"xoxa-", 'D', 10, 200}, {"xoxb-", 'D', 10, 200},
    {"xoxp-", 'D', 10, 200},  {"xoxr-", 'D', 10, 200}, {"xoxs-", 'D', 10, 200},  {"sk_live_", 'A', 24, 99},
    {"rk_live_", 'A', 24, 99}, {"sk-ant-", 'D', 24, 200}, {"sk-proj-", 'D', 24, 200}, {"sk-", 'A', 32, 64},
    {"hf_", 'A', 34, 40},     {"npm_", 'A', 36, 36},
};
const char* FILES[] = {"png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "json"};
const char* DOMAINS[] = {
    "政府", "香港", "澳門", "台灣", "台湾", "新加坡", "中國", "中国", "公司", "网络", "中文网", "公益", "在线", "集团",
    "网址", "网站", "网店", "商城", "商店", "商标", "企业", "信息", "手机", "移动", "机构", "组织机构", "政务", "我爱你",
    "广东", "游戏", "娱乐", "新闻", "时尚", "餐厅", "食品", "购物", "招聘", "健康", "慈善", "点看", "大拿", "佛山", "微博",
    "みんな", "コム", "ストア", "セール", "ファッション", "クラウド", "ポイント", "グーグル", "アマゾン", "書籍", "通販", "家電",
    "한국", "닷넷", "닷컴", "삼성", "ไทย", "คอม", "ລາວ",
};
const char* SECRET_NAMES[] = {"key", "secret", "token", "passwd", "password", "pwd", "credential"};
constexpr int MAX_TOKEN = 255;

enum Script : int { NONE, LATIN, OTHER, DECIMAL, MARK };

struct Match { int64_t start, stop; int32_t kind; };

struct Finder {
    const uint8_t *begin, *end;
    const uint32_t* properties;
    std::vector<Match> found;
    const uint8_t* free_from[6];

    static uint8_t of(uint8_t b) { return classes.of[b]; }
    // Byte at p + i, 0 outside the text. NUL belongs to no class, as in the plain form.
    uint8_t at(const uint8_t* p) const { return p >= begin && p < end ? *p : 0; }
    bool word(const uint8_t* p) const { return (of(at(p)) & ALNUM) || at(p) == '_'; }
    bool digit(const uint8_t* p) const { return of(at(p)) & DIGIT; }
    void add(Kind kind, const uint8_t* from, const uint8_t* to) {
        found.push_back({from - begin, to - begin, kind});
        free_from[kind] = to;
    }
    // k code points before p, and after it.
    const uint8_t* back(const uint8_t* p, int k) const {
        while (k && p > begin) { do --p; while (p > begin && (*p & 0xc0) == 0x80); --k; }
        return p;
    }
    const uint8_t* forth(const uint8_t* p, int k) const {
        while (k && p < end) { do ++p; while (p < end && (*p & 0xc0) == 0x80); --k; }
        return p;
    }
    static bool holds(const uint8_t* p, const uint8_t* q, const char* needle) {
        size_t n = std::strlen(needle);
        for (; size_t(q - p) >= n && p <= q; ++p) {
            size_t i = 0;
            while (i < n) {
                uint8_t b = p[i];
                if (b >= 'A' && b <= 'Z') b += 32;
                if (b != uint8_t(needle[i])) break;
                ++i;
            }
            if (i == n) return true;
        }
        return false;
    }
    static bool equal(const uint8_t* p, const uint8_t* q, const char* text) {  // text is in lower case
        size_t n = std::strlen(text);
        return size_t(q - p) == n && holds(p, q, text);
    }
    static bool ends(const uint8_t* p, const uint8_t* q, const char* text) {
        size_t n = std::strlen(text);
        return size_t(q - p) >= n && holds(q - n, q, text);
    }

    // What a character is in an address; `size` gets its bytes.
    int script(const uint8_t* p, int& size) const {
        if (*p < 0x80) { size = 1; return of(*p) & LETTER ? LATIN : of(*p) & ::DIGIT ? DECIMAL : NONE; }
        const uint32_t flags = properties[unicode::decode(p, size)];
        if (flags & unicode::LETTER) return flags & unicode::LATIN ? LATIN : OTHER;
        return flags & unicode::MARK ? MARK : flags & unicode::DECIMAL ? DECIMAL : NONE;
    }
    bool begins(const uint8_t* p) const { int size; const int s = script(p, size); return s != NONE && s != MARK; }

    // Where the local part before an @ begins; the @ if there is none or it is too long.
    const uint8_t* local_part(const uint8_t* low, const uint8_t* sign) const {
        const uint8_t* p = sign;
        int letters = NONE, count = 0, size;
        for (; p > low; ++count) {
            const uint8_t* q = back(p, 1);
            if (*q == '.' && (p == sign || *p == '.')) break;
            const int s = script(q, size);
            if (s == NONE) {
                if (*q >= 0x80 || !(of(*q) & LOCAL)) break;
                letters = NONE;
            } else if (s < DECIMAL) {
                if (letters != NONE && s != letters) break;
                letters = s;
            }
            p = q;
        }
        if (p < sign && *p == '.') { ++p; --count; }
        if (count > 64) return sign;
        while (p < sign && *p != '_' && !begins(p)) p = forth(p, 1);
        return p;
    }

    void email(const uint8_t* sign) {
        const uint8_t* local = local_part(std::max(free_from[EMAIL], back(sign, 65)), sign);
        if (local == sign) return;
        const uint8_t *d = sign + 1, *stop = forth(d, 255), *to = nullptr, *top = nullptr;
        for (bool first = true; d < stop && begins(d); first = false) {
            const uint8_t* q = d;
            int letters = NONE, count = 0, size = 1, s = NONE;
            for (; q < stop; ++count, q += size) {
                s = script(q, size);
                if (s == NONE || s == DECIMAL || (s < DECIMAL && letters != NONE && s != letters)) break;
                if (s < DECIMAL) letters = s;
            }
            if (!first && count >= 2 && count <= 24 && !(q < stop && s == DECIMAL)) {
                to = q;
                top = d;
                int64_t longest = 0;
                for (const char* known : DOMAINS) {
                    const int64_t n = std::strlen(known);
                    if (n > longest && n <= q - d && !std::memcmp(d, known, n)) to = d + (longest = n);
                }
            }
            for (; q < stop; q += size) {
                s = script(q, size);
                if (*q == '-') letters = NONE;
                else if (s == NONE || (s < DECIMAL && letters != NONE && s != letters)) break;
                else if (s < DECIMAL) letters = s;
            }
            if (q[-1] == '-' || q >= stop || *q != '.') break;
            d = q + 1;
        }
        if (!to) return;
        // Part of a URL: user:password@host.
        const uint8_t *u = local, *limit = local - std::min<int64_t>(local - begin, 256);
        while (u > limit && u[-1] > 32 && u[-1] < 127 && u[-1] != '/' && u[-1] != '@') --u;
        if (u - begin >= 3 && !std::memcmp(u - 3, "://", 3)) return;
        for (const char* file : FILES) if (equal(top, to, file)) return;
        if (equal(local, sign, "git") || equal(top, to, "example") || equal(top, to, "invalid") || equal(top, to, "test"))
            return;
        for (const char* host : {"example.com", "example.org", "example.net"})
            if (equal(sign + 1, to, host) || (ends(sign + 1, to, host) && *(to - 12) == '.')) return;
        add(EMAIL, local, to);
    }

    void url_password(const uint8_t* sign) {
        const uint8_t *p = sign, *limit = sign - std::min<int64_t>(sign - begin, 256);
        while (p > limit && p[-1] > 32 && p[-1] < 127 && p[-1] != '/' && p[-1] != '@' && p[-1] != ':' && p[-1] != '|')
            --p;
        if (p == sign || p == limit || p[-1] != ':' || equal(p, sign, "redacted")) return;
        const uint8_t* u = p - 1;
        while (u > limit && u[-1] > 32 && u[-1] < 127 && u[-1] != '/' && u[-1] != '@' && u[-1] != ':') --u;
        if (u - begin >= 3 && u - limit >= 3 && !std::memcmp(u - 3, "://", 3) && sign + 1 < end && begins(sign + 1))
            add(KEY, p, sign);
    }

    void ipv4(const uint8_t* p) {
        if (p < free_from[IPV4] || word(p - 1) || (at(p - 1) == '.' && digit(p - 2))) return;
        const uint8_t* q = p;
        uint32_t address = 0;
        for (int i = 0; i < 4; ++i) {
            if (i && at(q++) != '.') return;
            uint32_t value = 0;
            const uint8_t* first = q;
            while (digit(q) && q - first < 4) value = value * 10 + (*q++ - '0');
            if (q == first || q - first > 3 || value > 255 || (*first == '0' && q - first > 1)) return;
            address = address << 8 | value;
        }
        if (word(q) || (at(q) == '.' && digit(q + 1))) return;
        if (kept(address)) return;
        if (q - p == 7) {
            const uint8_t *from = back(p, 100), *to = forth(q, 100);
            if (!holds(from, to, "dns") && !holds(from, to, "server")) return;
        }
        if (holds(back(p, 24), p, "version")) return;
        add(IPV4, p, q);
    }
    const uint32_t* networks4;  // (address, mask) pairs
    int64_t n_networks4;
    bool kept(uint32_t a) const {
        for (int64_t i = 0; i < n_networks4; ++i)
            if ((a & networks4[2 * i + 1]) == networks4[2 * i]) return true;
        return false;
    }
    const uint8_t* networks6;  // 16 bytes of address, 16 of mask
    int64_t n_networks6;

    void ipv6(const uint8_t* p) {
        if ((*p != '2' && *p != '3') || p < free_from[IPV6] || word(p - 1) || at(p - 1) == ':' || at(p - 1) == '.') return;
        for (int i = 1; i < 4; ++i) if (!(of(at(p + i)) & HEX)) return;
        if (at(p + 4) != ':') return;
        const uint8_t* q = p;
        while (q < end && q - p <= 45 && ((of(*q) & HEX) || *q == ':')) ++q;
        if (q - p > 45 || word(q)) return;
        if (q[-1] == ':' && q[-2] != ':') --q;
        uint8_t groups[8][2];
        int n = 0, gap = -1;
        const uint8_t* r = p;
        while (r < q) {
            if (*r == ':') {  // the second of two: the first was passed behind a group
                if (gap >= 0) return;
                gap = n;
                ++r;
                if (r < q && *r == ':') return;
                continue;
            }
            uint32_t value = 0;
            const uint8_t* first = r;
            while (r < q && *r != ':') {
                uint8_t b = *r++;
                value = value << 4 | uint32_t(b <= '9' ? b - '0' : (b | 32) - 'a' + 10);
            }
            if (r - first > 4 || n == 8) return;
            groups[n][0] = uint8_t(value >> 8);
            groups[n++][1] = uint8_t(value);
            if (r < q) ++r;
        }
        if (gap < 0 ? n != 8 : n > 7) return;
        if (n < 3) return;
        uint8_t address[16] = {};
        int before = gap < 0 ? 8 : gap, behind = n - before;
        std::memcpy(address, groups, 2 * before);
        if (behind > 0) std::memcpy(address + 16 - 2 * behind, groups[before], 2 * behind);
        for (int64_t i = 0; i < n_networks6; ++i) {
            bool in = true;
            for (int j = 0; j < 16 && in; ++j) in = (address[j] & networks6[32 * i + 16 + j]) == networks6[32 * i + j];
            if (in) return;
        }
        add(IPV6, p, q);
    }

    void phone(const uint8_t* p) {
        if (p < free_from[PHONE] || word(p - 1) || at(p - 1) == '+') return;
        const uint8_t* to = nullptr;
        if (*p == '+') {
            const uint8_t* q = p + 1;
            if (!digit(q) || *q == '0') return;
            ++q;
            for (int digits = 1;;) {
                if (digits >= 9 && !word(q)) to = q;
                if (digits == 15) break;
                int gap = 0;
                while (gap < 2 && at(q + gap) && std::strchr(" .()-", at(q + gap))) ++gap;
                if (!digit(q + gap)) break;
                q += gap + 1;
                ++digits;
            }
            if (!to) return;
        } else {
            if ((at(p - 1) == '.' || at(p - 1) == '-') && digit(p - 2)) return;
            to = north_american(p);
            if (!to && *p == '1' && at(p + 1) && std::strchr("-. ", at(p + 1))) to = north_american(p + 2);
            if (!to) return;
        }
        const uint8_t* from = back(p, 20);
        if (holds(from, p, "isbn") || holds(from, p, "doi") || holds(from, p, "#")) return;
        char last[8];  // the last seven digits: 555 01xx is nobody's number
        int k = 7;
        for (const uint8_t* q = to; q > p && k;) if (of(*--q) & DIGIT) last[--k] = char(*q);
        if (!k && !std::memcmp(last, "55501", 5)) return;
        add(PHONE, p, to);
    }
    bool three(const uint8_t* p) const { return at(p) >= '2' && at(p) <= '9' && digit(p + 1) && digit(p + 2); }
    const uint8_t* north_american(const uint8_t* p) const {
        if (at(p) == '(') {
            if (!three(p + 1) || at(p + 4) != ')') return nullptr;
            p += at(p + 5) == ' ' ? 6 : 5;
        } else {
            if (!three(p) || !at(p + 3) || !std::strchr("-. ", at(p + 3))) return nullptr;
            p += 4;
        }
        if (!three(p) || (at(p + 3) != '-' && at(p + 3) != '.')) return nullptr;
        for (int i = 4; i < 8; ++i) if (!digit(p + i)) return nullptr;
        p += 8;
        if (word(p) || ((at(p) == '.' || at(p) == '-') && digit(p + 1))) return nullptr;
        return p;
    }

    bool apart(const uint8_t* p) const {  // no digit goes on here
        return !word(p) && !(at(p) && std::strchr(" .-", at(p)) && digit(p + 1));
    }
    int digits(const uint8_t* p, int most) const { int n = 0; while (n < most && digit(p + n)) ++n; return n; }
    void card(const uint8_t* p) {
        if (p < free_from[CARD] || word(p - 1) || (at(p - 1) && std::strchr(" .-", at(p - 1)) && digit(p - 2))) return;
        const uint8_t* to = nullptr;
        int n = digits(p, 20);
        if (n >= 13 && n <= 19 && apart(p + n)) to = p + n;
        uint8_t sep = at(p + 4);
        if (n == 4 && (sep == ' ' || sep == '-')) {
            int second = digits(p + 5, 7);
            if (second == 4) {
                const uint8_t* q = p + 9;
                int groups = 2;
                while (groups < 4 && at(q) == sep && digits(q + 1, 4) == 4) { q += 5; ++groups; }
                if (groups == 4) {
                    if (at(q) == sep && digits(q + 1, 3) == 3 && apart(q + 4)) to = q + 4;
                    else if (apart(q)) to = q;
                }
            } else if (second == 6 && at(p + 11) == sep) {
                int third = digits(p + 12, 6);
                if ((third == 4 || third == 5) && apart(p + 12 + third)) to = p + 12 + third;
            }
        }
        if (!to) return;
        uint8_t d[20];
        int k = 0;
        for (const uint8_t* q = p; q < to; ++q) if (of(*q) & DIGIT) d[k++] = *q - '0';
        int sum = 0;
        for (int i = 0; i < k; ++i) {
            int v = d[k - 1 - i] * (i % 2 ? 2 : 1);
            sum += v > 9 ? v - 9 : v;
        }
        if (sum % 10) return;
        if (!issuer(d, k)) {
            const uint8_t* from = back(p, 32);
            bool near = false;
            for (const char* word : {"card", "visa", "credit", "amex"}) near = near || holds(from, p, word);
            if (!near) return;
        }
        add(CARD, p, to);
    }
    static bool issuer(const uint8_t* d, int n) {
        int two = d[0] * 10 + d[1], three = two * 10 + d[2], four = three * 10 + d[3];
        if (d[0] == 4) return n == 13 || n == 16 || n == 19;
        if ((two >= 51 && two <= 55) || (four >= 2221 && four <= 2720)) return n == 16;
        if (two == 34 || two == 37) return n == 15;
        if (two == 36 || two == 38 || (three >= 300 && three <= 305)) return n == 14;
        if (four >= 3528 && four <= 3589) return n == 16;
        return (four == 6011 || (three >= 644 && three <= 649) || two == 65 || two == 62) && n >= 16;
    }

    void token(const uint8_t* p) {
        if (of(at(p - 1)) & TOKEN) return;
        if (*p == 'e') return jwt(p);
        for (const Prefix& x : PREFIXES) {
            size_t n = std::strlen(x.text);
            if (size_t(end - p) < n || std::memcmp(p, x.text, n)) continue;
            const uint8_t* q = p + n;
            bool fits = true, number = false;
            while (q < end && (of(*q) & TOKEN) && q - p <= MAX_TOKEN) {
                fits = fits && (x.rest == 'D' || (x.rest == 'W' && *q != '-') || (x.rest == 'A' && (of(*q) & ALNUM)) ||
                                (x.rest == 'U' && (of(*q) & (DIGIT | UPPER))));
                number = number || (of(*q) & DIGIT);
                ++q;
            }
            if (fits && number && q - p <= MAX_TOKEN && q - p - int64_t(n) >= x.low && q - p - int64_t(n) <= x.high) {
                add(KEY, p, q);
                return;
            }
        }
    }
    void jwt(const uint8_t* p) {
        const uint8_t* q = p;
        for (int part = 0; part < 3; ++part) {
            if (part && at(q++) != '.') return;
            if (part < 2 && (end - q < 3 || std::memcmp(q, "eyJ", 3))) return;
            const uint8_t* first = q;
            while (q < end && (of(*q) & TOKEN) && q - first <= 4096) ++q;
            if (q - first < 13 || q - first > 4096) return;
        }
        add(KEY, p, q);
    }
    void private_key(const uint8_t* p) {
        static const char head[] = "-----BEGIN ", tail[] = "PRIVATE KEY-----", foot[] = "-----END ";
        if (end - p < 11 || std::memcmp(p, head, 11) || at(p - 1) == '-') return;
        const uint8_t* q = label(p + 11, tail);
        if (!q) return;
        const uint8_t* body = q;
        while (q < end && *q != '-' && *q < 128 && q - body <= 16384) ++q;
        if (q - body > 16384 || end - q < 9 || std::memcmp(q, foot, 9)) return;
        if ((q = label(q + 9, tail))) add(KEY, p, q);
    }
    const uint8_t* label(const uint8_t* p, const char* tail) const {  // up to 32 of A-Z and space, then the tail
        for (int i = 0; i <= 32; ++i, ++p) {
            if (end - p >= 16 && !std::memcmp(p, tail, 16)) return p + 16;
            if (!(of(at(p)) & UPPER) && at(p) != ' ') return nullptr;
        }
        return nullptr;
    }
    // name = "value": at the sign.
    void assignment(const uint8_t* sign) {
        const uint8_t* q = sign + 1;
        if (at(q) == '>' || at(q) == '=') ++q;
        for (int i = 0; i < 4 && at(q) == ' '; ++i) ++q;
        uint8_t quote = at(q);
        if (quote != '"' && quote != '\'') return;
        const uint8_t* value = ++q;
        bool number = false, letter = false, hex = true, seen[256] = {};
        int distinct = 0;
        while (q < end && (of(*q) & SECRET) && q - value <= 200) {
            number = number || (of(*q) & DIGIT);
            letter = letter || (of(*q) & LETTER);
            hex = hex && (of(*q) & HEX);
            distinct += !seen[*q];
            seen[*q] = true;
            ++q;
        }
        int n = int(q - value);
        if (at(q) != quote || n < 16 || n > 200 || !number || !letter || distinct < 10) return;
        if (hex && (n == 32 || n == 40 || n == 64)) return;  // a checksum
        const uint8_t* name = sign;
        for (int i = 0; i < 4 && at(name - 1) && std::strchr(" \"'", at(name - 1)); ++i) --name;
        const uint8_t* from = name;
        while (from > begin && name - from < 40 && (of(from[-1]) & TOKEN)) --from;
        for (const char* word : SECRET_NAMES)
            if (holds(from, name, word)) return add(KEY, value, q);
    }

    void scan() {
        found.clear();
        for (auto& f : free_from) f = begin;
        for (const uint8_t* p = begin; p < end; ++p) {
            uint8_t b = *p;
            if (!(of(b) & TRIGGER)) continue;
            if (of(b) & DIGIT) {
                if (word(p - 1)) continue;
                ipv4(p);
                ipv6(p);
                phone(p);
                card(p);
                continue;
            }
            switch (b) {
                case '@': email(p); url_password(p); break;
                case '+': case '(': phone(p); break;
                case '-': private_key(p); break;
                case '=': case ':': assignment(p); break;
                default: token(p);
            }
        }
        std::sort(found.begin(), found.end(), [](const Match& a, const Match& b) {
            if (a.start != b.start) return a.start < b.start;
            return a.stop != b.stop ? a.stop > b.stop : a.kind < b.kind;
        });
    }
};

}  // namespace

// Matches as (row, kind, start, stop) in code points; returns how many there are, of which `room` are written.
extern "C" __attribute__((visibility("default"))) int64_t find_patterns(
    const uint8_t* bytes, const int64_t* offsets, int64_t n, const uint32_t* properties, const uint32_t* networks4, int64_t n4,
    const uint8_t* networks6, int64_t n6, int64_t* out, int64_t room) {
    Finder f{};
    f.properties = properties;
    f.networks4 = networks4;
    f.n_networks4 = n4;
    f.networks6 = networks6;
    f.n_networks6 = n6;
    int64_t total = 0;
    for (int64_t i = 0; i < n; ++i) {
        f.begin = bytes + offsets[i];
        f.end = bytes + offsets[i + 1];
        f.scan();
        int64_t chars = 0, byte = 0;
        for (const Match& m : f.found) {
            for (; byte < m.start; ++byte) chars += (f.begin[byte] & 0xc0) != 0x80;
            if (total < room) {
                int64_t* row = out + 4 * total;
                row[0] = i;
                row[1] = m.kind;
                row[2] = chars;
                int64_t size = 0;
                for (int64_t b = m.start; b < m.stop; ++b) size += (f.begin[b] & 0xc0) != 0x80;
                row[3] = chars + size;
            }
            ++total;
        }
    }
    return total;
}
