// Repetition among the tokens of one document: the most frequent n-grams and the repeated ones, as DataTrove counts
// them. A first pass over a bitmap, small enough for the nearest cache, finds the few n-grams that may occur twice;
// only those meet a table. Memory is reused from document to document.
#pragma once
#include <vector>
#include "text_chunks.hpp"

namespace grams {

// Which of the hashes marked in it may have been marked twice: never no where it is yes.
class Twice {
public:
    void reset(size_t n) {
        int bits = 6;
        while ((1ull << bits) < 8 * n) bits++;
        shift_ = 64 - bits;
        words_.assign((1ull << bits) / 32, 0);
    }
    void mark(uint64_t h) {
        uint64_t slot = h >> shift_, &w = words_[slot >> 5];
        int b = 2 * (slot & 31);
        w |= (1 + 2 * (w >> b & 1)) << b;
    }
    bool operator()(uint64_t h) const {
        uint64_t slot = h >> shift_;
        return words_[slot >> 5] >> (2 * (slot & 31) + 1) & 1;
    }
private:
    std::vector<uint64_t> words_;
    int shift_ = 58;
};

// Hashes with how often each was put in and the number of the first time.
class Counter {
public:
    struct Entry { uint64_t key; uint32_t count, first; };

    // Forgets all; about `n` are expected.
    void reset(size_t n = 32) {
        size_t size = 64;
        while (size < 2 * n) size *= 2;
        entries_.assign(size, {0, 0, 0});
        used_ = 0;
    }
    // Counts one more and returns the entry.
    Entry& add(uint64_t key, uint32_t place) {
        if (2 * used_ >= entries_.size()) grow();
        Entry& e = find(key);
        if (!e.count) { e.key = key; e.first = place; used_++; }
        e.count++;
        return e;
    }

private:
    std::vector<Entry> entries_;
    size_t used_ = 0;

    Entry& find(uint64_t key) {
        size_t mask = entries_.size() - 1, slot = (key * english::BASE >> 32) & mask;
        while (entries_[slot].count && entries_[slot].key != key) slot = (slot + 1) & mask;
        return entries_[slot];
    }
    void grow() {
        std::vector<Entry> old(entries_.size() * 2);
        old.swap(entries_);
        for (const Entry& e : old)
            if (e.count) find(e.key) = e;
    }
};

class Grams {
public:
    static constexpr size_t MOST = 1 << 22;  // tokens; those after are left out (text.MOST_GRAM_TOKENS)

    Grams() { reset(1 << 12); }

    void clear() {
        if (room_ > 1 << 18) *this = Grams();  // what a long document took is given back
        size_ = 0;
        power_ = 1;
    }

    void add(const chunks::Token& t) {
        using english::Joined, english::joined;
        if (size_ == room_) {
            if (size_ == MOST) return;
            reset(2 * room_);
        }
        size_t i = size_++;
        hashes_[i] = t.hash;
        joined_[i + 1] = joined_[i] + power_ * t.hash;
        chars_[i + 1] = chars_[i] + t.chars;
        power_ *= Joined::raise(joined.power, t.bytes);
        unshift_[i + 1] = unshift_[i] * Joined::raise(joined.inverse, t.bytes);
    }

    // Characters of the most frequent 2-, 3- and 4-gram (the first seen of equals, with the spaces between its tokens)
    // times its count; 0 where there are too few tokens.
    void top(int64_t* out) {
        // A (n+1)-gram occurs twice only where both n-grams in it do.
        maybe_.assign(size_, 1);
        for (int n = 2; n <= 4; n++) out[n - 2] = top(n);
    }

    // Characters of the n-grams that occurred before, n = 5…10: left to right, a repeated one is passed as a whole, and
    // n-grams are the same if their tokens joined without spaces are.
    void repeated(int64_t* out) {
        for (int n = 5; n <= 10; n++) out[n - 5] = repeated(n);
    }

private:
    size_t size_ = 0, room_ = 0;
    std::vector<uint64_t> hashes_, joined_, unshift_;  // joined_[i]: of the first i tokens as one string
    std::vector<uint32_t> chars_;  // in the first i tokens
    std::vector<uint8_t> maybe_;
    uint64_t power_ = 1;
    Twice twice_;
    Counter counter_;

    void reset(size_t room) {
        room_ = room;
        for (auto* v : {&hashes_, &joined_, &unshift_}) v->resize(room + 1);
        chars_.resize(room + 1);
        unshift_[0] = 1;
    }

    int64_t top(int n) {
        int64_t m = (int64_t)size_ - n + 1;
        if (m <= 0) return 0;
        const uint64_t* h = hashes_.data();
        auto key = [=](int64_t i) {
            uint64_t k = h[i] * 0x9fb21c651e98df25ull + h[i + 1] * 0xd6e8feb86659fd93ull;
            if (n > 2) k = (k ^ k >> 32) * 0xa0761d6478bd642full + h[i + 2] * 0xe7037ed1a0b428dbull;
            if (n > 3) k = (k ^ k >> 32) * 0x8ebc6af09c88c6e3ull + h[i + 3] * 0x589965cc75374cc3ull;
            return k;
        };
        twice_.reset(m);
        for (int64_t i = 0; i < m; i++)
            if (maybe_[i] & maybe_[i + 1]) twice_.mark(key(i));
        places_.clear();
        for (int64_t i = 0; i < m; i++) {
            bool both = maybe_[i] & maybe_[i + 1];
            uint64_t k;
            if ((maybe_[i] = both && twice_(k = key(i)))) places_.push_back({k, (uint32_t)i});
        }
        uint32_t count = 1, first = 0;
        counter_.reset(places_.size() / 2);
        for (const Place& p : places_) {
            const Counter::Entry& e = counter_.add(p.key, p.at);
            if (e.count > count || (e.count == count && count > 1 && e.first < first)) {
                count = e.count;
                first = e.first;
            }
        }
        return (int64_t)(chars_[first + n] - chars_[first] + n - 1) * count;
    }

    int64_t repeated(int n) {
        int64_t m = (int64_t)size_ - n + 1, total = 0;
        if (m <= 0) return 0;
        const uint64_t *joined = joined_.data(), *unshift = unshift_.data();
        auto key = [=](int64_t i) { return (joined[i + n] - joined[i]) * unshift[i]; };
        twice_.reset(m);
        for (int64_t i = 0; i < m; i++) twice_.mark(key(i));
        places_.clear();
        for (int64_t i = 0; i < m; i++) {
            uint64_t k = key(i);
            if (twice_(k)) places_.push_back({k, (uint32_t)i});
        }
        counter_.reset(places_.size());
        int64_t next = 0;
        for (const Place& p : places_) {
            if (p.at < next || counter_.add(p.key, p.at).count == 1) continue;
            total += chars_[p.at + n] - chars_[p.at];
            next = p.at + n;
        }
        return total;
    }

    struct Place { uint64_t key; uint32_t at; };
    std::vector<Place> places_;
};

}  // namespace grams
