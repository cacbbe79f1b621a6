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
        any_ = false;
    }
    void mark(uint64_t h) {
        uint64_t slot = h >> shift_, &w = words_[slot >> 5];
        int b = 2 * (slot & 31);
        uint64_t seen = w >> b & 1;
        any_ |= seen;
        w |= (1 + 2 * seen) << b;
    }
    bool operator()(uint64_t h) const {
        uint64_t slot = h >> shift_;
        return words_[slot >> 5] >> (2 * (slot & 31) + 1) & 1;
    }
    bool any() const { return any_; }

private:
    std::vector<uint64_t> words_;
    int shift_ = 58;
    bool any_ = false;
};

// Hashes with how often each was put in and the number of the first time.
class Counter {
public:
    struct Entry { uint64_t key; uint32_t count, first; };

    void reset() {
        if (used_) entries_.assign(used_ > entries_.size() / 8 ? entries_.size() : 64, {0, 0, 0});
        if (entries_.empty()) entries_.assign(64, {0, 0, 0});
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
        size_t mask = entries_.size() - 1, slot = english::mix(key) & mask;
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
    Grams() { clear(); }

    void clear() {
        hashes_.clear();
        joined_.assign(1, 0);
        chars_.assign(1, 0);
        unshift_.assign(1, 1);
        power_ = 1;
    }

    void add(const chunks::Token& t) {
        using english::Joined, english::joined;
        hashes_.push_back(t.hash);
        joined_.push_back(joined_.back() + power_ * t.hash);
        chars_.push_back(chars_.back() + t.chars);
        power_ *= Joined::raise(joined.power, t.bytes);
        unshift_.push_back(unshift_.back() * Joined::raise(joined.inverse, t.bytes));
    }

    // Characters of the most frequent 2-, 3- and 4-gram (the first seen of equals, with the spaces between its tokens)
    // times its count; 0 where there are too few tokens.
    void top(int64_t* out) {
        // A (n+1)-gram occurs twice only where both n-grams in it do.
        maybe_.assign(hashes_.size(), 1);
        for (int n = 2; n <= 4; n++) out[n - 2] = top(n);
    }

    // Characters of the n-grams that occurred before, n = 5…10: left to right, a repeated one is passed as a whole, and
    // n-grams are the same if their tokens joined without spaces are.
    void repeated(int64_t* out) {
        for (int n = 5; n <= 10; n++) out[n - 5] = repeated(n);
    }

private:
    std::vector<uint64_t> hashes_, joined_, unshift_;  // joined_[i]: of the first i tokens as one string
    std::vector<uint32_t> chars_;
    std::vector<uint8_t> maybe_;
    uint64_t power_;
    Twice twice_;
    Counter counter_;

    int64_t top(int n) {
        int64_t m = (int64_t)hashes_.size() - n + 1;
        if (m <= 0) return 0;
        auto key = [&](int64_t i) {
            uint64_t k = hashes_[i];
            for (int j = 1; j < n; j++) k = (k ^ k >> 29) * 0xd6e8feb86659fd93ull + hashes_[i + j];
            return english::mix(k);
        };
        twice_.reset(m);
        for (int64_t i = 0; i < m; i++)
            if (maybe_[i] & maybe_[i + 1]) twice_.mark(key(i));
        uint32_t count = 1, first = 0;
        if (twice_.any()) {
            counter_.reset();
            for (int64_t i = 0; i < m; i++) {
                if (!(maybe_[i] & maybe_[i + 1])) { maybe_[i] = 0; continue; }
                uint64_t k = key(i);
                if (!(maybe_[i] = twice_(k))) continue;
                const Counter::Entry& e = counter_.add(k, i);
                if (e.count > count || (e.count == count && count > 1 && e.first < first)) {
                    count = e.count;
                    first = e.first;
                }
            }
        } else {
            std::fill(maybe_.begin(), maybe_.end(), 0);
        }
        return (int64_t)(chars_[first + n] - chars_[first] + n - 1) * count;
    }

    int64_t repeated(int n) {
        int64_t m = (int64_t)hashes_.size() - n + 1, total = 0;
        if (m <= 0) return 0;
        auto key = [&](int64_t i) { return english::mix((joined_[i + n] - joined_[i]) * unshift_[i]); };
        twice_.reset(m);
        for (int64_t i = 0; i < m; i++) twice_.mark(key(i));
        if (!twice_.any()) return 0;
        counter_.reset();
        for (int64_t i = 0; i < m;) {
            uint64_t k = key(i);
            if (twice_(k) && counter_.add(k, i).count > 1) {
                total += chars_[i + n] - chars_[i];
                i += n;
            } else {
                i++;
            }
        }
        return total;
    }
};

}  // namespace grams
