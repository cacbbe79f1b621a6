// Byte-level BPE with the ids of Hugging Face `tokenizers`: added tokens, words of the known expressions, merges.
// The class of each code point (letter, number, white space) comes from Python, see bpe.py, as does everything else.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <queue>
#include <thread>
#include <vector>

#include "unicode.hpp"

#define API extern "C" __attribute__((visibility("default")))

namespace {

using u8 = uint8_t;
using u32 = uint32_t;
using u64 = uint64_t;
using i64 = int64_t;

enum : u8 { LETTER = 1, NUMBER = 2, SPACE = 4, UNSTABLE = 8 };
constexpr u8 KIND = LETTER | NUMBER | SPACE;
constexpr u32 NONE = ~0u;

u64 mix(u64 a, u64 b) {
    const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
    return static_cast<u64>(product) ^ static_cast<u64>(product >> 64);
}

u64 hash_bytes(const u8* p, i64 n) {
    u64 h = 0x9e3779b97f4a7c15ull ^ static_cast<u64>(n);
    for (; n >= 8; p += 8, n -= 8) {
        u64 v;
        std::memcpy(&v, p, 8);
        h = mix(h ^ v, 0xa0761d6478bd642full);
    }
    u64 v = 0;
    std::memcpy(&v, p, n);
    return mix(h ^ v, 0xe7037ed1a0b428dbull);
}

size_t slots_for(size_t entries) {
    size_t slots = 16;
    while (slots < 2 * entries) slots *= 2;
    return slots;
}

// (left id, right id) -> rank of the merge and the id it makes; open addressing.
struct Merges {
    struct Slot { u64 key; u32 rank, id; };
    std::vector<Slot> slots;
    u64 mask = 0;

    void build(const u32* triples, i64 n) {
        slots.assign(slots_for(n), {~0ull, NONE, 0});
        mask = slots.size() - 1;
        for (i64 i = 0; i < n; i++) {  // a pair that is listed twice has its last rank, as in the library
            Slot& slot = *place(static_cast<u64>(triples[3 * i]) << 32 | triples[3 * i + 1]);
            slot = {static_cast<u64>(triples[3 * i]) << 32 | triples[3 * i + 1], static_cast<u32>(i), triples[3 * i + 2]};
        }
    }
    Slot* place(u64 key) {
        u64 at = mix(key, 0x9e3779b97f4a7c15ull) & mask;
        while (slots[at].key != ~0ull && slots[at].key != key) at = (at + 1) & mask;
        return &slots[at];
    }
    // Rank NONE where there is no such merge.
    const Slot& find(u32 left, u32 right) const {
        return *const_cast<Merges*>(this)->place(static_cast<u64>(left) << 32 | right);
    }
};

// Bytes -> id, for words that are tokens as they stand.
struct Words {
    struct Slot { i64 start; u32 size, id; };
    std::vector<Slot> slots;
    std::vector<u8> bytes;
    u64 mask = 0;

    void build(const u8* data, const i64* offsets, const u32* ids, i64 n) {
        bytes.assign(data, data + offsets[n]);
        slots.assign(slots_for(n), {0, 0, NONE});
        mask = slots.size() - 1;
        for (i64 i = 0; i < n; i++) {
            u64 at = hash_bytes(data + offsets[i], offsets[i + 1] - offsets[i]) & mask;
            while (slots[at].id != NONE) at = (at + 1) & mask;
            slots[at] = {offsets[i], static_cast<u32>(offsets[i + 1] - offsets[i]), ids[i]};
        }
    }
    u32 find(const u8* p, i64 n) const {
        for (u64 at = hash_bytes(p, n) & mask; slots[at].id != NONE; at = (at + 1) & mask)
            if (slots[at].size == n && !std::memcmp(bytes.data() + slots[at].start, p, n)) return slots[at].id;
        return NONE;
    }
};

// Tokens that are found in text before it is cut, leftmost first and of those the longest.
struct Added {
    struct Token { std::vector<u8> bytes; u32 id; bool skip; };
    std::vector<Token> by_first[256];
    bool any = false;

    void add(const u8* p, i64 n, u32 id, bool skip) {
        auto& list = by_first[*p];
        list.push_back({std::vector<u8>(p, p + n), id, skip});
        std::stable_sort(list.begin(), list.end(), [](auto& a, auto& b) { return a.bytes.size() > b.bytes.size(); });
        any = any || !skip;
    }
    const Token* at(const u8* p, const u8* end) const {
        for (const Token& t : by_first[*p])
            if (static_cast<i64>(t.bytes.size()) <= end - p && !std::memcmp(p, t.bytes.data(), t.bytes.size())) return &t;
        return nullptr;
    }
};

// Ids of words of at most 31 bytes and 7 ids; two places per word, one cache line each. The last byte of a key is the
// word's length. What it holds never shows in the result.
struct Cache {
    struct alignas(64) Entry { u64 key[4]; u32 n; u32 ids[7]; };
    static constexpr u64 SETS = 1 << 15;
    std::vector<Entry> entries = std::vector<Entry>(2 * SETS, Entry{});
    std::vector<u32> ids, ranks, made;  // scratch of one word
};

struct Model {
    bool gpt2, ignore_merges;
    int digits;  // most digits of a word, 0: any number
    const u8* classes;  // [0x110000]
    u32 byte_ids[256];
    u64 masks[32][4];
    Merges merges;
    Words words;
    Added added[2];
    std::mutex guard;
    std::vector<std::unique_ptr<Cache>> idle;

    u8 kind(const u8* p, int& size) const {
        if (*p < 0x80) {
            size = 1;
            return classes[*p] & KIND;
        }
        return classes[unicode::decode(p, size)] & KIND;
    }

    const u8* run(const u8* p, const u8* end, u8 of) const {
        int size;
        while (p < end && kind(p, size) == of) p += size;
        return p;
    }

    const u8* number(const u8* p, const u8* end) const {
        if (!digits) return run(p, end, NUMBER);
        int size;
        for (int left = digits; left && p < end && kind(p, size) == NUMBER; left--) p += size;
        return p;
    }

    // 's 't 'm 'd 're 've 'll after the apostrophe at p; p if there is none.
    static const u8* contraction(const u8* p, const u8* end, bool any_case) {
        const u8 fold = any_case ? 0x20 : 0;
        const i64 left = end - p;
        if (left < 2) return p;
        const u8 a = p[1] < 0x80 ? p[1] | fold : p[1];
        if (a == 's' || a == 't' || a == 'm' || a == 'd') return p + 2;
        if (left < 3) return p;
        const u8 b = p[2] < 0x80 ? p[2] | fold : p[2];
        if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return p + 3;
        if (any_case && p[1] == 0xc5 && p[2] == 0xbf) return p + 3;  // U+017F, a long s
        return p;
    }

    // White space begins at p: \s+(?!\S)|\s+, after \s*[\r\n]+ where `lines`.
    const u8* space(const u8* p, const u8* end, bool lines) const {
        const u8 *stop = p, *last = p, *line = nullptr;
        int size;
        while (stop < end && kind(stop, size) == SPACE) {
            last = stop;
            stop += size;
            if (*last == '\n' || *last == '\r') line = stop;
        }
        if (lines && line) return line;
        return stop == end || last == p ? stop : last;
    }

    // Where the word that begins at p ends; p < end.
    const u8* word(const u8* p, const u8* end) const {
        int size;
        if (*p == '\'')
            if (const u8* stop = contraction(p, end, !gpt2); stop != p) return stop;
        if (gpt2) {
            const u8* q = *p == ' ' && p + 1 < end ? p + 1 : p;
            switch (kind(q, size)) {
                case LETTER: return run(q + size, end, LETTER);
                case NUMBER: return number(q, end);
                case 0: return run(q + size, end, 0);
            }
            return space(p, end, false);
        }
        const u8 first = kind(p, size);
        if (first == LETTER) return run(p + size, end, LETTER);
        if (first == NUMBER) return number(p, end);
        const u8* q = p + size;
        int next_size;
        if (*p != '\r' && *p != '\n' && q < end && kind(q, next_size) == LETTER) return run(q + next_size, end, LETTER);
        q = *p == ' ' ? p + 1 : p;
        if (q < end && kind(q, size) == 0) {
            q = run(q + size, end, 0);
            while (q < end && (*q == '\n' || *q == '\r')) q++;
            return q;
        }
        return space(p, end, true);
    }

    // Merges of a short word, lowest rank first and leftmost of equals; writes its ids, returns how many.
    i64 merge_short(const u8* p, i64 n, Cache& c, u32* out) const {
        if (static_cast<i64>(c.ids.size()) < n) c.ids.resize(n), c.ranks.resize(n), c.made.resize(n);
        u32 *ids = c.ids.data(), *ranks = c.ranks.data(), *made = c.made.data();
        for (i64 i = 0; i < n; i++) ids[i] = byte_ids[p[i]];
        auto look = [&](i64 i) {
            const auto& found = merges.find(ids[i], ids[i + 1]);
            ranks[i] = found.rank;
            made[i] = found.id;
        };
        for (i64 i = 0; i + 1 < n; i++) look(i);
        while (n > 1) {
            i64 best = 0;
            for (i64 i = 1; i + 1 < n; i++)
                if (ranks[i] < ranks[best]) best = i;
            if (ranks[best] == NONE) break;
            ids[best] = made[best];
            n--;
            std::memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof(u32));
            std::memmove(ranks + best + 1, ranks + best + 2, (n - best - 1) * sizeof(u32));
            std::memmove(made + best + 1, made + best + 2, (n - best - 1) * sizeof(u32));
            if (best) look(best - 1);
            if (best + 1 < n) look(best);
        }
        std::memcpy(out, ids, n * sizeof(u32));
        return n;
    }

    // The same with a queue, O(n log n); n < 2^32 - 1.
    i64 merge_long(const u8* p, u32 n, u32* out) const {
        struct Node { u32 id, before, after; };  // neighbours, NONE at the ends; id NONE once merged into the left one
        struct Pair {
            u32 rank, id, at;
            bool operator<(const Pair& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
        };
        std::vector<Node> nodes(n);
        std::vector<Pair> pairs;
        auto look = [&](u32 i, auto&& push) {
            if (nodes[i].after == NONE) return;
            const auto& found = merges.find(nodes[i].id, nodes[nodes[i].after].id);
            if (found.rank != NONE) push(Pair{found.rank, found.id, i});
        };
        for (u32 i = 0; i < n; i++) nodes[i] = {byte_ids[p[i]], i ? i - 1 : NONE, i + 1 < n ? i + 1 : NONE};
        for (u32 i = 0; i < n; i++) look(i, [&](Pair x) { pairs.push_back(x); });
        std::priority_queue<Pair> queue({}, std::move(pairs));
        while (!queue.empty()) {
            const Pair top = queue.top();
            queue.pop();
            Node& left = nodes[top.at];
            if (left.id == NONE || left.after == NONE) continue;
            Node& right = nodes[left.after];
            const auto& now = merges.find(left.id, right.id);
            if (now.rank == NONE || now.id != top.id) continue;  // one of the two was merged meanwhile
            left.id = top.id;
            right.id = NONE;
            left.after = right.after;
            if (left.after != NONE) nodes[left.after].before = top.at;
            if (left.before != NONE) look(left.before, [&](Pair x) { queue.push(x); });
            look(top.at, [&](Pair x) { queue.push(x); });
        }
        i64 made = 0;
        for (u32 i = 0; i != NONE; i = nodes[i].after) out[made++] = nodes[i].id;
        return made;
    }

    i64 merge(const u8* p, i64 n, Cache& c, u32* out) const {
        if (ignore_merges)
            if (const u32 id = words.find(p, n); id != NONE) return *out = id, 1;
        return n <= 128 ? merge_short(p, n, c, out) : merge_long(p, static_cast<u32>(n), out);
    }

    // Ids of one word; `readable` is the end of the whole buffer.
    i64 ids_of(const u8* p, i64 n, const u8* readable, Cache& c, u32* out) const {
        if (n == 1) return *out = byte_ids[*p], 1;
        if (n > 31) return merge(p, n, c, out);
        u64 key[4] = {0, 0, 0, 0};
        if (readable - p >= 32) {
            std::memcpy(key, p, 32);
            for (int i = 0; i < 4; i++) key[i] &= masks[n][i];
        } else {
            std::memcpy(key, p, n);
        }
        key[3] |= static_cast<u64>(n) << 56;
        const u64 h = mix(key[0] ^ 0x9e3779b97f4a7c15ull, key[1] ^ 0xa0761d6478bd642full) ^
                      mix(key[2] ^ 0xe7037ed1a0b428dbull, key[3] ^ 0x8ebc6af09c88c6e3ull);
        Cache::Entry* pair = &c.entries[2 * ((h ^ h >> 32) & (Cache::SETS - 1))];
        for (int way = 0; way < 2; way++)
            if (!std::memcmp(pair[way].key, key, 32)) {
                std::memcpy(out, pair[way].ids, sizeof pair[way].ids);  // room for 7: a text has 8 places to spare
                return pair[way].n;
            }
        const i64 made = merge(p, n, c, out);
        if (made <= 7) {
            pair[1] = pair[0];
            std::memcpy(pair[0].key, key, 32);
            std::memcpy(pair[0].ids, out, made * sizeof(u32));
            pair[0].n = static_cast<u32>(made);
        }
        return made;
    }

    u32* cut(const u8* p, const u8* end, const u8* readable, Cache& c, u32* out) const {
        while (p < end) {
            const u8* stop = word(p, end);
            out += ids_of(p, stop - p, readable, c, out);
            p = stop;
        }
        return out;
    }

    // Added tokens of one kind, then of the next, then words.
    u32* split(int level, const u8* p, const u8* end, const u8* readable, Cache& c, u32* out) const {
        if (level == 2) return cut(p, end, readable, c, out);
        if (!added[level].any) return split(level + 1, p, end, readable, c, out);
        const u8* from = p;
        while (p < end) {
            const auto* found = added[level].at(p, end);
            const u8* stop = p + (found ? static_cast<i64>(found->bytes.size()) : 1);
            if (found && !found->skip) {
                out = split(level + 1, from, p, readable, c, out);
                *out++ = found->id;
                from = stop;
            }
            p = stop;
        }
        return split(level + 1, from, end, readable, c, out);
    }

    bool stable(const u8* p, const u8* end) const {
        int size;
        while (p < end) {
            if (*p < 0x80) {
                p++;
                continue;
            }
            if (classes[unicode::decode(p, size)] & UNSTABLE) return false;
            p += size;
        }
        return true;
    }

    std::unique_ptr<Cache> take() {
        std::lock_guard<std::mutex> hold(guard);
        if (idle.empty()) return std::make_unique<Cache>();
        auto one = std::move(idle.back());
        idle.pop_back();
        return one;
    }
    void give(std::unique_ptr<Cache> one) {
        std::lock_guard<std::mutex> hold(guard);
        idle.push_back(std::move(one));
    }
};

}  // namespace

API void* bpe_new(int gpt2, int digits, int ignore_merges, const u8* classes, const u32* byte_ids,
                  const u32* merges, i64 num_merges, const u8* words, const i64* word_offsets, const u32* word_ids,
                  i64 num_words) {
    auto* m = new Model;
    m->gpt2 = gpt2, m->digits = digits, m->ignore_merges = ignore_merges, m->classes = classes;
    std::memcpy(m->byte_ids, byte_ids, sizeof m->byte_ids);
    std::memset(m->masks, 0, sizeof m->masks);
    for (int n = 0; n < 32; n++) std::memset(m->masks[n], 0xff, n);
    m->merges.build(merges, num_merges);
    m->words.build(words, word_offsets, word_ids, num_words);
    return m;
}

// level 0: found in the text as it is, 1: found in the normalised text. skip: found, and left as the text it is.
API void bpe_add(void* model, int level, const u8* p, i64 n, u32 id, int skip) {
    static_cast<Model*>(model)->added[level].add(p, n, id, skip);
}

API void bpe_free(void* model) { delete static_cast<Model*>(model); }

// Ids of text i go to out[offsets[i] - offsets[0] + 8 i …], their number to counts[i]: -1, with only_stable,
// where NFC might change the text. out has room for one id per byte and 8 per text.
API void bpe_encode(void* model, const u8* bytes, const i64* offsets, i64 n, int threads, int only_stable, u32* out,
                    i64* counts) {
    auto& m = *static_cast<Model*>(model);
    const u8* readable = bytes + offsets[n];
    std::atomic<i64> next{0};
    auto work = [&] {
        auto cache = m.take();
        constexpr i64 BLOCK = 4;
        for (i64 first; (first = next.fetch_add(BLOCK)) < n;)
            for (i64 i = first; i < std::min(n, first + BLOCK); i++) {
                const u8 *p = bytes + offsets[i], *end = bytes + offsets[i + 1];
                u32* to = out + (offsets[i] - offsets[0]) + 8 * i;
                counts[i] = only_stable && !m.stable(p, end) ? -1 : m.split(0, p, end, readable, *cache, to) - to;
            }
        m.give(std::move(cache));
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; t++) others.emplace_back(work);
    work();
    for (auto& t : others) t.join();
}
